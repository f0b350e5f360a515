"""A ConvNet that reads patches one by one equals a convolution followed by a fully connected layer."""

import torch
from torch.nn import functional
from torch.testing import assert_close

from src.models.convnet import ConvNet
from src.tasks.glimpses import glimpses


def test_filters_on_glimpses_are_convolutions_of_the_image_and_of_its_half():
    core, images_NSS = ConvNet(49, hidden_size=5), torch.rand(3, 28, 28)
    core.c_H.data.normal_()
    filters = core.input.weight.view(5, 1, 7, 7)
    fine = functional.conv2d(images_NSS[:, None], filters, core.input.bias, stride=7).relu()
    half = functional.interpolate(images_NSS[:, None], scale_factor=0.5, mode="bilinear")
    coarse = functional.conv2d(half, filters, core.input.bias, stride=7).relu()
    maps, position = [], 0
    for i in range(2):
        for j in range(2):
            places = [coarse[:, :, i, j], *(fine[:, :, 2 * i + k, 2 * j + n] for k in range(2) for n in range(2))]
            for place in (*places, coarse[:, :, i, j]):
                maps.append(place @ core.U_NHH[position].t())
                position += 1
    expected = torch.relu(sum(maps) + core.c_H)
    assert core.flops(24) == 6 * 24 * 5 * 5
    y_BH, _ = core(core.project(glimpses(images_NSS)), return_sequence=False)
    assert position == 24
    assert_close(y_BH, expected, rtol=1e-10, atol=1e-10)


def test_weights_start_uniform_by_what_they_are_summed_over_and_biases_from_zero():
    core = ConvNet(49, hidden_size=25, num_patches=4)
    assert 0.19 < core.input.weight.abs().max() <= 0.2
    assert 0.099 < core.U_NHH.abs().max() <= 0.1
    assert not core.input.bias.any()
    assert not core.c_H.any()
