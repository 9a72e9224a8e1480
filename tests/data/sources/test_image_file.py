import contextlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from athanor.base.errors import UserError
from athanor.data.sources.image_file import has_16_bits, is_image, load_image


def save(path, colour=(10, 20, 30), size=(8, 8), mode="RGB", **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **settings)


def pixel(path, mode="RGB", size=None):
    return load_image(path, mode, size)[:, 0, 0].tolist()


@pytest.mark.parametrize(
    "mode, colour, expected",
    [
        ("RGB", (10, 20, 30), [10, 20, 30]),
        ("L", 77, [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("LA", (50, 255), [50, 50, 50]),
        ("I;16", 65535, [255, 255, 255]),
        ("I;16", 257 * 100, [100, 100, 100]),
        ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
    ],
)
def test_every_mode_decodes_to_the_right_colour(tmp_path, mode, colour, expected):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    save(path, colour, mode=mode)
    assert load_image(path, "RGB", None).shape == (3, 8, 8)
    assert pixel(path) == expected
    assert load_image(path, "L", None).shape == (1, 8, 8)
    if len(set(expected)) == 1:
        assert pixel(path, "L") == expected[:1]


def test_palette_images_with_and_without_transparency(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert pixel(tmp_path / "opaque.png") == [200, 100, 50]
    assert pixel(tmp_path / "clear.png") == [255, 255, 255]


def test_16_bit_pgm_is_scaled(tmp_path):
    (tmp_path / "image.pgm").write_bytes(b"P5 2 1 65535\n" + np.array([65535, 257], ">u2").tobytes())
    assert load_image(tmp_path / "image.pgm", "L", None).tolist() == [[[255, 1]]]


@pytest.mark.parametrize("suffix, dtype", [("png", np.uint16), ("tif", np.uint16), ("pgm", ">u2")])
def test_sixteen_bits_are_kept_in_mode_l16(tmp_path, suffix, dtype):
    pixels = np.random.default_rng(0).integers(0, 2**16, (8, 8), np.uint16)
    pixels[0, 0] = 65535
    path = tmp_path / f"image.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + pixels.astype(dtype).tobytes())
    else:
        Image.fromarray(pixels).save(path)
    assert has_16_bits(path) is True
    for size in None, 8:
        image = load_image(path, "L16", size)
        assert image.dtype == np.uint16 and np.array_equal(image[0], pixels)


def test_other_pictures_are_scaled_to_sixteen_bits(tmp_path):
    save(tmp_path / "grey.png", 77, mode="L")
    save(tmp_path / "white.png", (255, 255, 255))
    assert has_16_bits(tmp_path / "grey.png") is False
    assert load_image(tmp_path / "grey.png", "L16", None).max() == 77 * 257
    assert load_image(tmp_path / "white.png", "L16", 4).min() == 65535
    (tmp_path / "text.png").write_text("no image")
    assert has_16_bits(tmp_path / "text.png") is None and has_16_bits(tmp_path / "none.png") is None


def test_resampling_sixteen_bits_stays_in_their_range(tmp_path):
    pixels = np.zeros((32, 32), np.uint16)
    pixels[:, 16:] = 65535  # bicubic resampling overshoots on both sides of the edge
    Image.fromarray(pixels).save(tmp_path / "edge.png")
    image = load_image(tmp_path / "edge.png", "L16", 21)
    assert (image[0, :, :8] < 3000).all() and (image[0, :, 13:] > 62000).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "L16"])
def test_exif_orientation_is_applied_in_every_mode(tmp_path, mode):
    pixels = np.zeros((4, 8), np.uint16 if mode == "L16" else np.uint8)
    pixels[:, :4] = 200  # bright on the left; a quarter turn clockwise brings it to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = load_image(tmp_path / "turned.png", mode, None)
    assert image.shape[1:] == (8, 4)
    assert image[0, :, 0].tolist() == [200] * 4 + [0] * 4


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4] = 255  # bright on the left; a quarter turn clockwise brings it to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = load_image(tmp_path / "turned.png", "L", None)
    assert image.shape == (1, 8, 4)
    assert image[0, :, 0].tolist() == [255] * 4 + [0] * 4


def test_the_shorter_side_is_resized_and_the_centre_cut_out(tmp_path):
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = load_image(tmp_path / "wide.png", "L", 10)
    assert image.shape == (1, 10, 10)
    assert (image > 180).all()  # the filter reaches over the edge of the square


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    assert np.array_equal(load_image(tmp_path / "noise.png", "RGB", 16), pixels.transpose(2, 0, 1))


def test_a_wrong_suffix_does_not_matter(tmp_path):
    save(tmp_path / "image.jpg", format="PNG")
    assert pixel(tmp_path / "image.jpg") == [10, 20, 30]


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png: not an image"):
        load_image(tmp_path / "text.png", "RGB", None)
    with pytest.raises(UserError, match=r"absent\.png does not exist"):
        load_image(tmp_path / "absent.png", "RGB", None)
    Image.new("F", (8, 8)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="mode F have no known white; save it with 8 or 16 bits"):
        load_image(tmp_path / "float.tif", "RGB", None)


@pytest.mark.parametrize("limit", [60, 20])  # Pillow only warns up to twice its limit of pixels, and raises above
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, limit):
    save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=r"bomb\.png: .*64|bomb\.png: 8 x 8 pixels"):
        load_image(tmp_path / "bomb.png", "RGB", None)


@pytest.mark.parametrize("name", ["a.eps", "a.png", "a"])
def test_postscript_is_no_image_as_it_is_a_program(name, tmp_path, monkeypatch):
    """A control: Pillow by itself starts Ghostscript for it, here a stand-in that leaves a file."""
    ghostscript, started = tmp_path / "gs", tmp_path / "started"
    ghostscript.write_text(f"#!/bin/sh\ntouch '{started}'\n")
    ghostscript.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(ghostscript))
    path = tmp_path / name
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(UserError, match=f"{name}: not an image"):
        load_image(path, "RGB", None)
    assert not started.exists()
    assert not is_image("a.eps")
    with Image.open(path) as image, contextlib.suppress(OSError):
        image.load()
    assert started.exists()
