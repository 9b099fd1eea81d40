"""One name for a tensor whatever release of a library has built the module that it is in."""

import re

_OLD_QKV = re.compile(r"(\.layer\.\d+\.attention)\.attention\.(query|key|value)\.")
_OLD_OUT = re.compile(r"(\.layer\.\d+\.attention)\.output\.dense\.")


def attention_name(name: str) -> str:
    """The name that late releases of transformers 5 give to a tensor of DINOv2's attention, from that of early ones.

    Other names stay as they are.
    """
    return _OLD_OUT.sub(r"\1.o_proj.", _OLD_QKV.sub(lambda found: f"{found[1]}.{found[2][0]}_proj.", name))
