"""One image file of any format that Pillow reads, as an array of 8 or 16 bits."""

import contextlib
import functools
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from athanor.base.errors import UserError

_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_PROGRAMS = ("EPS",)  # formats that Pillow hands to another program: PostScript could run any code in Ghostscript


def load_image(path: str | Path, mode: str, size: int | None) -> np.ndarray:
    """uint8 [C, H, W] of `mode` "RGB" or "L" (grey), or uint16 [1, H, W] of "L16" (grey of 16 bits).

    With a `size`, the shorter side is resized to so many pixels and the centre square is cut out. EXIF orientation is
    applied, transparent pixels are laid on white, and a file of several frames gives the first. White is 255 in RGB and
    L, 65,535 in L16, to which the pixels of any file are scaled. Raises UserError with the file's name where it cannot
    be read or has more pixels than Pillow's limit.
    """
    try:
        with _open(path) as image:
            _check_number_of_pixels(image)
            if size is not None:
                image.draft(None, (2 * size, 2 * size))  # JPEG decodes at 1/2, 1/4 or 1/8 where that is still too large
            image = ImageOps.exif_transpose(image)
            image = _to_float(image) if mode == "L16" else _to_mode(image, mode)
            if size is not None:
                image = middle_square(image, size)
            pixels = np.asarray(image)  # [H, W] or [H, W, C]
            if mode == "L16":
                pixels = np.rint(pixels).clip(0, 65535).astype(np.uint16)  # resampling overshoots at edges
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except _TOO_LARGE as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # the decoders of Pillow raise anything on a broken file, each its own
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
        raise UserError(f"{path}: {reason}") from error
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


def middle_square(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to `size` pixels, and the square in the middle cut out."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def number_of_pixels(path: str | Path) -> int:
    """By the header of a file; 0 where that cannot be read."""
    try:
        with _open(path) as image:
            return image.width * image.height
    except Exception:  # as above
        return 0


def has_16_bits(path: str | Path) -> bool | None:
    """Whether a file is grey with more than 8 bits, by its header; None where that cannot be read."""
    try:
        with _open(path) as image:
            return image.mode.startswith("I")
    except Exception:  # as above; load_image says what is wrong with the file
        return None


def is_image(name: str) -> bool:
    """Whether the suffix of a file's name is one of an image format that Pillow reads."""
    return os.path.splitext(name)[1].lower() in _formats()


@functools.cache
def _formats() -> dict[str, str]:
    """Formats that Pillow can open, by lower-case suffix; some that it registers, as .pdf, it can only save."""
    Image.init()  # registers all formats
    readable = Image.OPEN.keys() - set(_PROGRAMS)
    return {suffix: name for suffix, name in Image.registered_extensions().items() if name in readable}


def _open(path: str | Path) -> Image.Image:
    if likely := _formats().get(os.path.splitext(path)[1].lower()):
        with contextlib.suppress(Image.UnidentifiedImageError):  # of a wrong suffix
            return Image.open(path, formats=[likely])  # trying all formats takes longer than decoding 32x32
    return Image.open(path, formats=[name for name in Image.ID if name not in _PROGRAMS])


def _check_number_of_pixels(image: Image.Image) -> None:
    # Up to twice its limit Pillow only warns, and turning this warning into an error is not safe in threads.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, the limit is {limit:,} in all")


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow's own convert("L") sets all 16-bit values above 255 to 255
        image = Image.fromarray(np.rint(_sixteen_bits(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")  # Pillow cannot convert some modes to L directly
    return image.convert(mode)


def _to_float(image: Image.Image) -> Image.Image:
    """Grey in float32, 0 to 65,535, because Pillow does not resize all of its modes of 16 bits."""
    has_more = image.mode.startswith(("I", "F"))
    pixels = _sixteen_bits(image) if has_more else np.asarray(_to_mode(image, "L"), np.float32) * 257
    return Image.fromarray(pixels.astype(np.float32))


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    """The pixels [H, W] of an image of mode I;16, or I, in which Pillow opens some files of 16 bits."""
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise UserError(f"pixels of mode {image.mode} have no known white; save it with 8 or 16 bits a channel")
    return pixels
