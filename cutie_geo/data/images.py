"""The only place where image files are opened, with checks for damage and excessive size.

Pillow does not verify the checksums of PNG pixel data, so it reads a mask with a flipped bit as other ids.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

from cutie_geo.limits import max_pixels, require_pixels

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@contextmanager
def open_image(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """Yield an image file as Pillow opens it, with its pixels not decoded yet.

    PNG files are read completely, and all their checksums are compared.

    Raises:
        ValueError: for a damaged PNG file, or an image of more than `limits.max_pixels` pixels; the caller adds the
            file name.
        Exception: any error of Pillow, for a file that is not an image.
    """
    with Path(path).open("rb") as file:
        source: io.BufferedIOBase = file
        if file.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE:
            content = PNG_SIGNATURE + file.read()
            for name, data in png_chunks(content):
                if name == b"IHDR" and len(data) == 13:  # before Pillow warns of it
                    require_pixels(*struct.unpack(">II", data[:8]))
            source = io.BytesIO(content)
        source.seek(0)
        with _opened(source) as image:
            require_pixels(image.width, image.height)
            yield image


def _opened(source: Any) -> ImageFile.ImageFile:
    """Open an image with Pillow's own pixel limit raised to the limit of this package."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels() > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels()
    try:
        return Image.open(source)
    except UnidentifiedImageError:
        raise UnidentifiedImageError("not an image") from None  # Pillow's text names an object of this module
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"got an image of far too many pixels, expected at most {max_pixels()}; --max-pixels raises the limit"
        ) from None


def png_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and data of each chunk of a PNG file up to its end; bytes after the end are ignored.

    Raises:
        ValueError: for a wrong checksum, or a truncated file.
    """
    place, name = len(PNG_SIGNATURE), b""
    while name != b"IEND":
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        if end + 4 > len(png):
            raise ValueError(f"damaged PNG file: cut off in the chunk at byte {place} of {len(png)}")
        name = png[place + 4 : place + 8]
        if zlib.crc32(memoryview(png)[place + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            raise ValueError(f"damaged PNG file: wrong checksum of the chunk at byte {place}")
        yield name, png[place + 8 : end]
        place = end + 4
