import itertools

import numpy as np
import torch

from athanor.data.seeds import mix, seed_step


def test_near_numbers_give_distinct_seeds():
    seeds = {mix(*numbers) for numbers in itertools.product(range(-5, 15), range(20), range(50))}
    assert len(seeds) == 20 * 20 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_spread_evenly_over_all_their_bits():
    seeds = [mix(0, 0, step) for step in range(4000)]
    ones = [sum(seed >> bit & 1 for seed in seeds) for bit in range(63)]
    assert all(1800 < count < 2200 for count in ones)  # 2000 +- 6 standard deviations
    flipped = [(mix(7, step) ^ mix(7, step + 1)).bit_count() for step in range(4000)]
    assert 31 < sum(flipped) / len(flipped) < 32


def test_an_array_gives_the_seeds_of_its_numbers():
    numbers = [0, 1, 77, 2**40, 2**63]
    assert mix(mix(3, 4), np.array(numbers, dtype=np.uint64)).tolist() == [mix(mix(3, 4), each) for each in numbers]


def test_the_order_and_the_number_of_the_integers_matter():
    assert len({mix(*numbers) for numbers in [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (1,), (2,), (1, 1), (0,), ()]}) == 9


def test_a_seeded_step_draws_the_same_again_and_no_other_step_does():
    def drawn(*numbers):
        seed_step(torch.device("cpu"), *numbers)
        return torch.rand(4).tolist()

    with torch.random.fork_rng():
        assert drawn(0, 0, 1, 2) == drawn(0, 0, 1, 2)
        assert drawn(0, 0, 1, 2) != drawn(0, 0, 1, 3)
        assert drawn(0, 0, 1, 2) != drawn(0, 0, 2, 1)
