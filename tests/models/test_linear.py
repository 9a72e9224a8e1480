import torch

from athanor.models.linear import Linear


def test_is_wx_plus_b_and_rows_of_w_are_templates():
    model = Linear(input_shape=(3, 4, 5), num_classes=7)
    images = torch.rand(2, 3, 4, 5)
    templates = model.head.weight.view(7, 3, 4, 5)
    expected = torch.einsum("bchw,kchw->bk", images, templates) + model.head.bias
    torch.testing.assert_close(model(images), expected)
    assert sum(p.numel() for p in model.parameters()) == 7 * 60 + 7
