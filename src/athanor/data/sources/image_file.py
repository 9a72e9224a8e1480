"""One image file of any kind that Pillow reads, as a uint8 array."""

import functools
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# What Pillow's decoders raise on files that are broken, truncated or not images.
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)
_PROGRAMS = ("EPS",)  # PostScript is a program, which Pillow lets Ghostscript run: no image
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def load_image(path: str | Path, mode: str, size: int | None) -> np.ndarray:
    """uint8 [C, H, W] of `mode` "RGB" or "L"; with a `size`, the shorter side is resized to it and the centre cut out.

    EXIF orientation is applied, 16 bits are scaled to 8, transparency is laid on white, and a file of several frames
    gives the first. A file that cannot be read raises ValueError with its name.
    """
    try:
        with _open(path) as image:
            _refuse_bomb(image)
            if size is not None:
                image.draft(None, (2 * size, 2 * size))  # JPEG decodes at 1/2, 1/4 or 1/8 where that is still too large
            image = _to_mode(ImageOps.exif_transpose(image), mode)
            if size is not None:
                image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
            pixels = np.asarray(image)  # [H, W] or [H, W, C]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except _BOMB as error:
        raise ValueError(f"{path}: {error}") from error
    except _UNREADABLE as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
        raise ValueError(f"{path}: {reason}") from error
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


@functools.cache
def _formats() -> dict[str, str]:
    """Format by lower-case suffix, of those that Pillow can open: it registers some, as .pdf, that it can only save."""
    Image.init()  # registers all formats
    readable = Image.OPEN.keys() - set(_PROGRAMS)
    return {suffix: name for suffix, name in Image.registered_extensions().items() if name in readable}


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _formats()


def _open(path: str | Path) -> Image.Image:
    likely = _formats().get(os.path.splitext(path)[1].lower())
    if likely:
        try:
            return Image.open(path, formats=[likely])  # trying all formats takes longer than decoding 32x32
        except Image.UnidentifiedImageError:
            pass  # a wrong suffix
    return Image.open(path, formats=[name for name in Image.ID if name not in _PROGRAMS])


def _refuse_bomb(image: Image.Image) -> None:
    # Pillow only warns up to twice its limit. Turning the warning into an error by a filter is not safe in threads.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, the limit is {limit:,} in all")


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")  # Pillow has no direct way from some modes to L
    return image.convert(mode)


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow's own convert("L") clips 16 bits at 255. Mode "I" is how it opens 16 bit PGM.
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no known white; save it with 8 or 16 bits a channel")
    return Image.fromarray(np.rint(pixels / 257).astype(np.uint8))
