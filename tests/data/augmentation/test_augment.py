import re

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as TF

from athanor.base.errors import UserError
from athanor.data.augmentation.augment import Augment, crop, cutout, flip, shift_and_rotate
from athanor.data.augmentation.windows import resized_crop, windows

SHAPES = pytest.mark.parametrize("shape", [(12, 1, 8, 8), (12, 3, 6, 10)], ids=str)
MODES = pytest.mark.parametrize("mode", ["zeros", "reflect"])
OLD = dict(crop=2, flip=True, cutout=3, shift=1.5, rotate=20)
COLOURS = dict(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2, randaugment=2)
STEPS = OLD | COLOURS | dict(resized_crop=[0.3, 0.9])
EVERYTHING = STEPS | dict(padding_mode="reflect")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape):
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator(1))  # 0 is what comes in from outside


def augment(**knobs):
    augment = Augment(**dict(crop=0, padding_mode="zeros", flip=False, cutout=0, shift=0, rotate=0) | knobs)
    augment.mean = torch.tensor([7, 8, 9], dtype=torch.uint8)[:, None, None]
    return augment


def cropped_one_by_one(images, offset, padding, mode):
    """The same, image by image, with F.pad on floats: it does not reflect uint8."""
    expected = []
    for image, (top, left) in zip(images, offset.tolist(), strict=True):
        padded = F.pad(image[None].float(), (padding,) * 4, mode={"zeros": "constant"}.get(mode, mode))[0].byte()
        expected.append(padded[:, top : top + images.shape[2], left : left + images.shape[3]])
    return torch.stack(expected)


def offsets(count, padding):
    offset = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator())
    offset[:4] = 2 * padding * torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])  # the corners
    return offset


@MODES
@pytest.mark.parametrize("padding", [1, 2, 5])
@pytest.mark.parametrize("shape", [(12, 1, 8, 8), (12, 3, 6, 10), (9, 3, 10, 6), (5, 1, 7, 6)], ids=str)
def test_crop_equals_padding_and_slicing_image_by_image(shape, padding, mode):
    images, offset = noise(*shape), offsets(shape[0], padding)
    before = images.clone()
    windows = crop(images, offset, padding, mode)
    assert torch.equal(windows, cropped_one_by_one(images, offset, padding, mode))
    assert torch.equal(images, before)


@MODES
def test_crop_is_the_same_however_the_images_lie_in_memory(mode):
    images, offset = noise(12, 3, 6, 10), offsets(12, 2)
    expected = cropped_one_by_one(images, offset, 2, mode)
    layouts = {
        "every other": images.repeat_interleave(2, 0)[::2],
        "transposed": images.mT.contiguous().mT,
        "channels last": images.contiguous(memory_format=torch.channels_last),
    }
    assert [name for name, same in layouts.items() if not torch.equal(crop(same, offset, 2, mode), expected)] == []


def test_reflected_images_bring_in_no_pixel_from_outside():
    images = noise(200, 1, 5, 6)
    assert augment(crop=4, padding_mode="reflect")(images, generator(), total=200).min() > 0
    assert augment(crop=4)(images, generator(), total=200).min() == 0


def test_crop_draws_every_window_about_equally_often():
    images = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).expand(9000, -1, -1, -1)
    centres = augment(crop=1)(images, generator(), total=9000)[:, 0, 2, 2]  # each window has its own centre pixel
    names, counts = centres.unique(return_counts=True)
    assert names.tolist() == [7, 8, 9, 12, 13, 14, 17, 18, 19]
    assert counts.min() > 850 and counts.max() < 1150


@SHAPES
def test_flip_mirrors_the_chosen_images_and_no_other(shape):
    images = noise(*shape)
    mirrored = torch.rand(len(images), generator=generator()) < 0.5
    expected = [image.flip(-1) if chosen else image for image, chosen in zip(images, mirrored, strict=True)]
    assert 0 < mirrored.sum() < len(images)
    assert torch.equal(flip(images, mirrored), torch.stack(expected))


def test_alternating_flip_takes_what_it_is_told_and_draws_nothing():
    images, draws = noise(12, 3, 6, 10), generator()
    mirrored = torch.arange(12) % 3 == 0
    flipped = augment(flip="alternating")(images, draws, total=12, mirrored=mirrored)
    assert torch.equal(flipped, flip(images, mirrored))
    assert torch.equal(draws.get_state(), generator().get_state())


@SHAPES
def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others(shape):
    images = noise(1, *shape[1:]).repeat(1000, 1, 1, 1)
    flipped = augment(flip=True)(images, generator(), total=1000)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 450 < mirrored.sum() < 550


@SHAPES
@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_equals_filling_a_clipped_square_image_by_image(shape, size):
    images, fill = noise(*shape), noise(shape[1], 1, 1)
    centre = torch.rand(len(images), 2, generator=generator())
    centre[0], centre[1] = 0, 0.999  # the corners
    expected = images.clone()
    for image, (y, x) in zip(expected, centre, strict=True):
        top, left = int(y * shape[2]) - size // 2, int(x * shape[3]) - size // 2
        image[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = fill
    assert torch.equal(cutout(images, centre, size, fill), expected)


def test_cutout_fills_with_the_mean_colour():
    images = torch.full((50, 3, 9, 9), 200, dtype=torch.uint8)
    filled = augment(cutout=4)(images, generator(), total=50)
    holes = (filled != 200).any(1)
    assert filled.movedim(1, -1)[holes].unique(dim=0).tolist() == [[7, 8, 9]]
    assert holes.flatten(1).sum(1).max() == 16
    assert holes.flatten(1).sum(1).min() < 16  # clipped


@SHAPES
@pytest.mark.parametrize("x, y", [(0, 0), (1, 0), (0, -2), (3, 2)])
def test_a_whole_shift_moves_right_and_down_and_brings_in_zeros(shape, x, y):
    images = noise(*shape)
    expected = F.pad(images, (3, 3, 3, 3)).roll((y, x), (2, 3))[:, :, 3:-3, 3:-3]
    shift = torch.tensor([[x, y]], dtype=torch.float32).expand(len(images), -1)
    assert torch.equal(shift_and_rotate(images, shift, torch.zeros(len(images))), expected)


def test_half_a_pixel_is_the_mean_of_two():
    image = torch.tensor([[10, 20, 40, 0]], dtype=torch.uint8).view(1, 1, 1, 4)
    moved = shift_and_rotate(image, torch.tensor([[0.5, 0.0]]), torch.zeros(1))
    assert moved.flatten().tolist() == [5, 15, 30, 20]


@SHAPES
@pytest.mark.parametrize("degrees, turns", [(0, 0), (90, 1), (180, 2), (-90, -1)])
def test_positive_degrees_turn_counterclockwise_about_the_centre(shape, degrees, turns):
    images, side = noise(*shape), max(shape[2:])
    down, right = (side - shape[2]) // 2, (side - shape[3]) // 2
    square = F.pad(images, (right, right, down, down))  # torch.rot90 swaps height and width
    expected = square.rot90(turns, (2, 3))[:, :, down : side - down, right : side - right]
    turned = shift_and_rotate(images, torch.zeros(len(images), 2), torch.full((len(images),), float(degrees)))
    assert torch.equal(turned, expected)


@pytest.mark.parametrize("knob", STEPS)
def test_each_image_has_its_own_draw(knob):
    images = noise(1, 3, 8, 8).repeat(20, 1, 1, 1)
    changed = augment(**{knob: STEPS[knob]})(images, generator(), total=20)
    assert len(changed.unique(dim=0)) > (1 if knob == "flip" else 8)


@pytest.mark.parametrize("knob", [*STEPS, "all"])
def test_the_parts_of_a_batch_are_changed_as_in_the_whole(knob):
    images = noise(12, 3, 8, 10)
    changes = augment(**EVERYTHING if knob == "all" else {knob: STEPS[knob]})
    whole = changes(images, generator(), total=12)
    parts = [changes(images[i : i + 4], generator(), total=12, start=i) for i in (0, 4, 8)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, images)


def test_the_generator_decides_and_the_images_that_came_in_are_untouched():
    images = noise(12, 3, 8, 8)
    before, changes = images.clone(), augment(**EVERYTHING)
    first, again, other = (changes(images, generator(seed), total=12) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)
    assert first.dtype == torch.uint8
    assert first.shape == images.shape


@SHAPES
def test_a_resized_crop_equals_torchvisions_image_by_image(shape):
    images = noise(*shape)
    corner, sides = torch.randint(0, 3, (len(images), 2)), torch.randint(1, 5, (len(images), 2))
    corner[0], sides[0] = 0, torch.tensor(shape[2:])  # all of the image
    changed = resized_crop(images, corner, sides)
    for image, other, (top, left), (height, width) in zip(images, changed, corner, sides, strict=True):
        expected = TF.resized_crop(image, top, left, height, width, list(shape[2:]), antialias=False)
        assert (other.int() - expected.int()).abs().max() <= 1  # torchvision rounds otherwise
    assert torch.equal(changed[0], images[0])
    floats = images.float() / 255
    again = resized_crop(floats, corner, sides)
    expected = torch.stack(
        [
            TF.resized_crop(image, *place, *size, list(shape[2:]), antialias=False)
            for image, place, size in zip(floats, corner, sides, strict=True)
        ]
    )
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=0)


def test_windows_have_the_area_and_the_ratio_asked_for_and_lie_within_the_image():
    images = torch.zeros(1, 1, 100, 200).expand(4000, -1, -1, -1)
    draws = torch.rand(4000, 10, 2, generator=generator()), torch.rand(4000, 2, generator=generator(1))
    corner, sides = windows(*draws, images, [0.1, 0.5], [0.5, 2.0])
    share, ratio = sides.prod(1) / 20_000, sides[:, 1] / sides[:, 0]
    assert 0.095 < share.min() < 0.11 and 0.45 < share.max() < 0.51
    assert 0.48 < ratio.min() < 0.53 and 1.9 < ratio.max() < 2.07
    assert ((corner >= 0) & (corner + sides <= torch.tensor([100, 200]))).all()
    assert len(corner[:, 0].unique()) > 50
    assert abs((ratio.log() > 0).float().mean() - 0.5) < 0.1  # as likely wide as high, but for those that do not fit


def test_a_window_that_never_fits_is_cut_off_at_the_border():
    images = torch.zeros(5, 1, 4, 40)
    corner, sides = windows(torch.rand(5, 10, 2), torch.rand(5, 2), images, [1.0, 1.0], [1.0, 1.0])
    assert sides.tolist() == [[4, 13]] * 5
    assert (corner[:, 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint16, torch.int16])
@pytest.mark.parametrize("knob", [*OLD, "resized_crop"])
def test_pictures_of_other_dtypes_are_moved_and_keep_their_values(knob, dtype):
    images = noise(12, 3, 8, 10)
    wide = images.to(dtype) / 100 if dtype.is_floating_point else (images.int() * 100).to(dtype)
    changes = augment(**{knob: STEPS[knob]})
    small, changes.mean = changes(images, generator(), total=12), None
    if knob == "cutout":
        small = changes(images, generator(), total=12)
    changed = changes(wide, generator(), total=12)
    back = changed * 100 if dtype.is_floating_point else changed.int() / 100
    assert changed.dtype == dtype
    assert (back - small.int()).abs().max() <= (0.51 if knob in ("shift", "rotate", "resized_crop") else 1e-4)


@pytest.mark.parametrize("knob", ["crop", "cutout", "shift", "rotate", *COLOURS])
def test_negative_knobs_are_refused(knob):
    with pytest.raises(UserError, match=rf"data\.augment\.{knob}=-1 is negative; use 0 to switch it off"):
        augment(**{knob: -1})


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"hue": 0.6}, "data.augment.hue=0.6: use up to 0.5"),
        ({"magnitude": 31}, "data.augment.magnitude=31: use 0 to 30"),
        ({"resized_crop": [0.5]}, "data.augment.resized_crop=[0.5]: use [least, most], above 0, up to 1"),
        ({"resized_crop": [0.5, 1.5]}, "data.augment.resized_crop=[0.5, 1.5]: use"),
        ({"resized_crop": [0, 1]}, "data.augment.resized_crop=[0, 1]: use"),
        ({"resized_ratio": [2, 1]}, "data.augment.resized_ratio=[2, 1]: use [least, most], above 0"),
    ],
)
def test_values_out_of_range_are_refused(knobs, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        augment(**knobs)


@pytest.mark.parametrize(
    "images, knobs, message",
    [
        (
            torch.zeros(9, 20),
            {"crop": 1},
            "data.augment changes pictures [N, C, H, W], and this data has float32 [9, 20]",
        ),
        (
            torch.zeros(9, 3, 8, 8),
            {"hue": 0.1},
            "changes colours of uint8 pictures of 1 or 3 channels, and this data has",
        ),
        (torch.zeros(9, 3, 8, 8), {"hue": 0.1, "flip": True}, "type data.augment.flip=false data.augment.hue=0"),
        (
            noise(9, 4, 8, 8),
            {"randaugment": 1},
            "and this data has uint8 [9, 4, 8, 8]; type data.augment.randaugment=0",
        ),
        (noise(9, 1, 8, 8), {"saturation": 1}, "data.augment.saturation and hue change nothing in grey pictures"),
    ],
)
def test_inputs_that_cannot_be_changed_so_are_refused(images, knobs, message):
    with pytest.raises(UserError, match=re.escape(message)):
        augment(**knobs).prepare(images, torch.arange(9))
    augment().prepare(images, torch.arange(9))


def test_it_is_false_where_nothing_is_to_do():
    assert not augment()
    assert not augment(padding_mode="reflect")
    assert all(augment(**{knob: value}) for knob, value in STEPS.items())
    assert augment(flip="alternating")
