"""Tensor names that do not depend on the installed release of transformers."""

import re

_OLD_QKV = re.compile(r"(\.layer\.\d+\.attention)\.attention\.(query|key|value)\.")
_OLD_OUT = re.compile(r"(\.layer\.\d+\.attention)\.output\.dense\.")


def attention_name(name: str) -> str:
    """Convert the name of a DINOv2 attention tensor in early releases of transformers 5 to that in late releases.

    Other names are returned unchanged.
    """
    return _OLD_OUT.sub(r"\1.o_proj.", _OLD_QKV.sub(lambda found: f"{found[1]}.{found[2][0]}_proj.", name))
