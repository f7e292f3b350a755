"""The two domains of a data set."""

import pytest
import torch

from ganfuse.engine.domains import are_paired, central_square, domains_of, spread_images
from tests.engine.toys import ToyData
from tests.models.translation_checks import ToyDomain, ToyDomains


def test_domains_of_a_data_set_that_has_them_and_of_pairs_that_are_items():
    data = ToyDomains(1, 8)
    assert domains_of(data) == data.domains
    items = [{"image_a": torch.full((1, 4, 4), i), "image_b": torch.full((1, 4, 4), -i), "label_b": 7} for i in (1, 2)]
    first, second = domains_of(items)
    assert (len(first), len(second)) == (2, 2)
    assert torch.equal(first[1][0], items[1]["image_a"])
    assert torch.equal(second[1][0], items[1]["image_b"])
    assert (first[0][1], second[0][1]) == (0, 7)
    for wrong in (ToyData(), [], [{"image_a": torch.zeros(1, 4, 4)}]):
        with pytest.raises(ValueError, match=r"expected images of two domains, got '.*' with one"):
            domains_of(wrong)


def test_who_is_paired():
    assert are_paired(ToyDomains(1, 8, paired=True))
    assert not are_paired(ToyDomains(1, 8))
    assert are_paired([{"image_a": torch.zeros(1, 4, 4), "image_b": torch.zeros(1, 4, 4)}])


def test_images_spread_over_a_domain():
    domain = ToyDomain(20, 6, 1, 8)
    assert torch.equal(spread_images(domain, 3), domain.images[[0, 2, 4]])
    assert torch.equal(spread_images(domain, 100), domain.images)
    with pytest.raises(ValueError, match=r"images of one shape, got \(1, 4, 4\) and \(1, 6, 6\)"):
        spread_images([(torch.zeros(1, size, size), 0) for size in (4, 6)], 2)


def test_the_middle_of_an_image():
    image = torch.arange(35).view(5, 7)
    assert torch.equal(central_square(image, 3), image[1:4, 2:5])
    assert torch.equal(central_square(image[:, :5], 5), image[:, :5])
