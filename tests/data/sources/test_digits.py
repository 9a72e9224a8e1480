import torch

from athanor.data.sources.digits import digits


def test_digits_are_1797_images_of_8x8_in_10_classes():
    source = digits()
    assert source.train_inputs.shape == (1438, 1, 8, 8)
    assert source.test_inputs.shape == (359, 1, 8, 8)
    assert source.train_inputs.dtype == torch.uint8
    assert source.train_targets.dtype == torch.int64
    assert source.train_inputs.max() == 255
    assert source.class_names == tuple("0123456789")
    assert "CC BY 4.0" in source.origin


def test_the_test_set_is_a_stratified_fifth_and_always_the_same():
    source, again = digits(), digits()
    everything = source.train_targets.bincount() + source.test_targets.bincount()
    assert everything.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert torch.equal(source.test_targets.bincount(), (everything * 0.2).round().long())
    assert torch.equal(source.test_inputs, again.test_inputs)
