"""Random numbers of a counter: one at a time, by Python's integers, they are those of a whole tensor."""

import random

from gvbsm.method.draws import bits, derive, uniform, uniform_at


def test_one_number_is_that_of_the_tensor():
    for _ in range(50):
        key, part = random.getrandbits(63), random.getrandbits(random.choice([1, 8, 63]))
        assert derive(key, part, 3) == int(bits(int(bits(key ^ part, 1)) & (2**63 - 1) ^ 3, 1)) & (2**63 - 1)
        assert [uniform_at(key, place) for place in range(5)] == uniform(key, 5).tolist()
