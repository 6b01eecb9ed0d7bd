from collections import Counter

import numpy as np
import pytest

from regvpr_core.datasets.place_set import joined, place_set
from regvpr_core.training.batches import Batches
from regvpr_core.training.config import BatchConfig


def places(count=23, each=5, groups=3, positions=None, apart=0.0):
    total = count * each
    return place_set('made', [None] * total, list(map(str, range(total))),
                     [list(range(each * p, each * p + each)) for p in range(count)],
                     [f'g{p * groups // count}' for p in range(count)], positions, apart)


def test_a_batch_holds_k_different_pictures_of_each_of_p_places():
    batches = Batches(places(), BatchConfig(places=5, images=4), seed=1).epoch(0)
    assert [len(b.images) for b in batches] == [20, 20, 20, 20, 12]
    for batch in batches:
        assert set(Counter(batch.places.tolist()).values()) == {4}
        assert len(set(batch.images.tolist())) == len(batch.images)
        assert (batch.images // 5 == batch.places).all()


def test_every_place_comes_once_an_epoch():
    seen = Counter(int(p) for b in Batches(places(), BatchConfig(places=5), 1).epoch(3)
                   for p in b.places[::4])
    assert seen == Counter(range(23))


def test_pictures_are_shown_in_no_copy_that_they_do_not_have():
    made = joined([places(count=6, each=1).with_copies(3), places(count=6, each=1).with_copies(0),
                   places(count=6, each=2)])
    drawn = {}
    for epoch in range(40):
        for batch in Batches(made, BatchConfig(places=6, shuffle='all'), 1, copies=5).epoch(epoch):
            for image, copy in zip(batch.images, batch.copies, strict=True):
                drawn.setdefault(int(image), Counter())[int(copy)] += 1
    assert {len(drawn[image]) for image in range(6)} == {4}
    assert {tuple(drawn[image]) for image in range(6, 12)} == {(0,)}
    assert {len(drawn[image]) for image in range(12, 24)} == {5}


@pytest.mark.parametrize('shuffle', ['all', 'groups'])
def test_places_of_a_small_set_come_as_often_as_asked_but_once_a_batch(shuffle):
    made = joined([places(count=20), places(count=6).repeated(4)])
    batches = Batches(made, BatchConfig(places=8, shuffle=shuffle), 1)
    assert batches.steps == (20 + 4 * 6) // 8 + 1
    drawn = [batch.places[::4].tolist() for batch in batches.epoch(0)]
    assert all(len(set(of_batch)) == len(of_batch) for of_batch in drawn)
    seen = Counter(place for of_batch in drawn for place in of_batch)
    assert all(seen[place] == 1 for place in range(20))
    assert all(seen[place] >= 3 for place in range(20, 26))
    assert made.with_at_least(5).repeats.tolist() == [1] * 20 + [4] * 6


def test_groups_follow_one_another_so_that_a_batch_is_of_one_city():
    made = places(count=24, groups=3)
    batches = Batches(made, BatchConfig(places=4), 1).epoch(0)
    groups = [{made.groups[p] for p in batch.places} for batch in batches]
    assert groups == [{'g0'}] * 2 + [{'g1'}] * 2 + [{'g2'}] * 2
    mixed = Batches(made, BatchConfig(places=4, shuffle='all'), 1).epoch(0)
    assert any(len({made.groups[p] for p in batch.places}) > 1 for batch in mixed)


def test_epochs_differ_and_repeat_by_seed_alone():
    def drawn(seed, epoch):
        made = Batches(places(), BatchConfig(places=5), seed)
        return [b.images.tolist() for b in made.epoch(epoch)]
    assert drawn(1, 4) == drawn(1, 4)
    assert drawn(1, 4) != drawn(1, 5)
    assert drawn(1, 4) != drawn(2, 4)


def test_places_nearer_than_apart_never_share_a_batch():
    line = [(p // 30, p % 30, 0.0) for p in range(60)]  # two clips of 30 seconds
    made = places(count=60, groups=2, positions=line, apart=5.0)
    for epoch in range(5):
        batches = Batches(made, BatchConfig(places=6, shuffle='all'), 1).epoch(epoch)
        assert len(batches) == 10
        for batch in batches[:-3]:
            chosen = np.array([line[p] for p in batch.places[::4]])
            for clip in (0, 1):
                seconds = np.sort(chosen[chosen[:, 0] == clip, 1])
                assert (np.diff(seconds) >= 5).all()


def test_places_that_are_near_wait_for_a_later_batch():
    made = places(count=8, groups=1, positions=[(0, p // 2 * 100.0, 0) for p in range(8)],
                  apart=5.0)  # four pairs of neighbours
    batches = Batches(made, BatchConfig(places=4), 7).epoch(0)
    assert sorted(int(p) for b in batches for p in b.places[::4]) == list(range(8))
    assert all(len({int(p) // 2 for p in b.places[::4]}) == 4 for b in batches)


def test_a_picture_comes_again_only_in_another_copy():
    made = places(count=4, each=2)
    batch = Batches(made, BatchConfig(places=4, images=4, least=1), 1, copies=3).epoch(0)[0]
    pairs = list(zip(batch.images.tolist(), batch.copies.tolist(), strict=True))
    assert len(set(pairs)) == 16
    assert set(batch.copies.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize('processes', [2, 3])
def test_the_shares_of_processes_are_the_batch_in_order(processes):
    made = Batches(places(count=25), BatchConfig(places=6), 1, processes=processes)
    epoch = made.epoch(0)
    assert len(epoch) == made.steps
    for batch in epoch:
        shares = [batch.share(rank, processes) for rank in range(processes)]
        assert len({len(s.images) for s in shares}) == 1
        np.testing.assert_array_equal(np.concatenate([s.images for s in shares]), batch.images)
        assert not set(shares[0].places) & set(shares[1].places)


def test_a_rest_of_one_place_is_no_batch():
    assert Batches(places(count=21), BatchConfig(places=5), 1).steps == 4
    assert Batches(places(count=22), BatchConfig(places=5), 1).steps == 5
