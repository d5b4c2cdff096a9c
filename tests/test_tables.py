"""Hold the index tables against stacks and buffers of Python lists, and the schedules against what they promise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor import bundles
from spinn_tensor.data_prep import tables
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.tables import choose_width, forest_tables, lane_tables, thin_stack_tables
from spinn_tensor.data_prep.tables.forest import STEP_OVERHEAD
from spinn_tensor.data_prep.trees import REDUCE, SHIFT
from tests.machines import flatten
from tests.strategies import all_transitions, batches_of_transitions, left_branching, right_branching

batches = batches_of_transitions(max_batch=9, max_tokens=14)
# slots of every step, or of each one, the last for all beyond
widths = st.integers(1, 5) | st.lists(st.integers(1, 5), min_size=1, max_size=6).map(np.array)


def simulate(batch) -> tuple[list, dict]:
    """Run every sentence on lists. A state is its (sentence, transition); None is the null state.

    Returns the reads of every transition, (sentence, time, buffer top, stack top, second entry), and the children of
    every composed state.
    """
    reads, children = [], {}
    for sentence, transitions in enumerate(batch):
        words = [(sentence, time) for time, code in enumerate(transitions) if code == SHIFT]
        stack: list = []
        for time, code in enumerate(transitions):
            entries = [None, None, *stack]
            reads.append((sentence, time, words[0] if words else None, entries[-1], entries[-2]))
            if code == SHIFT:
                stack.append(words.pop(0))
            else:
                right, left = stack.pop(), stack.pop()
                stack.append((sentence, time))
                children[sentence, time] = (left, right)
    return reads, children


def states_by_row(batch, node_index) -> dict:
    """Return the state that lives in each row."""
    states = [(sentence, time) for sentence, codes in enumerate(batch) for time in range(len(codes))]
    rows = dict(zip(node_index.tolist(), states, strict=True))
    assert len(rows) == len(states), "two states share a row"
    assert 0 not in rows, "row 0 is the null state"
    return rows | {0: None}


def root_states(batch) -> list:
    return [(sentence, len(codes) - 1) for sentence, codes in enumerate(batch)]


def at(width, step) -> int:
    """Return the width of a step."""
    return int(width[min(step, len(width) - 1)]) if isinstance(width, np.ndarray) else width


@given(batch=batches, width=widths, padded=st.booleans(), spare=st.integers(0, 3))
def test_forest_composes_every_node_from_its_children_after_them(batch, width, padded, spare) -> None:
    n_tokens = int(flatten(batch)[1].sum())
    tables = forest_tables(*flatten(batch), width=width, padded=padded, n_leaf_rows=n_tokens + spare)
    rows = states_by_row(batch, tables.node_index)
    _, children = simulate(batch)
    assert [rows[row] for row in tables.root_index] == root_states(batch)
    made = set()
    for number, (start, end) in enumerate(pairwise(tables.step_offsets)):
        assert end - start == at(width, number) if padded else 0 < end - start <= at(width, number)
        step = []
        for slot in range(start, end):
            left, right = tables.left_index[slot], tables.right_index[slot]
            state = rows.get(1 + n_tokens + spare + slot)
            if state is None:
                assert (left, right) == (0, 0), "a padding slot composes null states"
                continue
            assert (rows[left], rows[right]) == children[state]
            assert {child for child in children[state] if child in children} <= made
            step.append(state)
        made.update(step)
    assert made == set(children)


@given(batch=batches)
def test_forest_is_as_short_as_its_width_allows(batch) -> None:
    """Hu 1961: no schedule on W machines is shorter, and at the height's own width S is the height."""
    levels = levels_of(batch)
    counts = np.bincount(levels) if levels else np.zeros(0, dtype=np.int64)
    for width in range(1, 6):
        tables = forest_tables(*flatten(batch), width=width)
        beyond = np.cumsum(counts[::-1])[::-1]
        shortest = max((level + -(-n // width) for level, n in enumerate(beyond)), default=0)
        assert len(tables.step_offsets) - 1 == shortest


def levels_of(batch) -> list[int]:
    """Return the distance from the root of every composition."""
    _, children = simulate(batch)
    levels: dict = {}
    for state in sorted(children, key=lambda state: -state[1]):  # parents come after their children
        level = levels.setdefault(state, 0)
        levels.update({child: level + 1 for child in children[state] if child in children})
    return list(levels.values())


@given(batch=batches_of_transitions(min_batch=1, max_batch=20, max_tokens=20))
def test_chosen_width_keeps_the_height_where_that_is_cheap(batch) -> None:
    levels = levels_of(batch)
    if not levels:
        return
    height, total = max(levels) + 1, len(levels)
    width = choose_width(np.bincount(levels))
    n_steps = len(forest_tables(*flatten(batch)).step_offsets) - 1
    assert n_steps == schedule_length(levels, width)
    needed = next(w for w in range(1, total + 1) if schedule_length(levels, w) == height)
    if height * needed <= 1.1 * total:
        assert (n_steps, width) == (height, needed)
    else:
        costs = [schedule_length(levels, w) * (w + STEP_OVERHEAD) for w in range(1, total + 1)]
        assert n_steps * (width + STEP_OVERHEAD) == min(costs)


def schedule_length(levels: list[int], width: int) -> int:
    beyond = np.cumsum(np.bincount(levels)[::-1])[::-1]
    return max(level + -(-int(n) // width) for level, n in enumerate(beyond))


def test_chosen_width_on_real_shapes() -> None:
    assert choose_width(np.array([1])) == 1
    assert choose_width(np.array([], dtype=np.int64)) == 1
    assert choose_width(np.array([10, 10, 10, 10])) == 10
    assert choose_width(np.array([128] * 13)) == 128


@given(
    batch=batches,
    width=st.none() | widths,
    n_lanes=st.none() | widths.filter(lambda sizes: isinstance(sizes, np.ndarray)),
    padded=st.booleans(),
    spare=st.integers(0, 3),
)
def test_lanes_read_what_the_stacks_hold(batch, width, n_lanes, padded, spare) -> None:
    padded = padded and width is not None
    n_tokens = int(flatten(batch)[1].sum())
    options = {"width": width, "n_lanes": None if width is None else n_lanes}
    tables = lane_tables(*flatten(batch), **options, padded=padded, n_leaf_rows=n_tokens + spare)
    rows = states_by_row(batch, tables.node_index)
    reads, children = simulate(batch)
    states = [(sentence, time) for sentence, time, *_ in reads]
    entry_of = dict(zip(states, tables.entry_index.tolist(), strict=True))
    state_of = {entry: state for state, entry in entry_of.items()}
    assert [rows[row] for row in tables.root_index] == root_states(batch)
    for sentence, time, word, top, second in reads:
        entry = entry_of[sentence, time] - 1
        assert rows[tables.buffer_index[entry]] == word
        assert rows[tables.stack1_index[entry]] == top
        assert rows[tables.stack2_index[entry]] == second
        assert tables.previous_index[entry] == (entry_of[sentence, time - 1] if time else 0)
    step_of = {
        entry + 1: step
        for step, (start, end) in enumerate(pairwise(tables.entry_offsets))
        for entry in range(start, end)
    }
    for step, n_entries in enumerate(np.diff(tables.entry_offsets)):
        most = len(batch) if options["n_lanes"] is None else at(n_lanes, step)
        assert n_entries == most if padded else n_entries <= most
    made = set()
    for step, (start, end) in enumerate(pairwise(tables.reduce_offsets)):
        most = len(batch) if width is None else at(width, step)
        assert end - start == most if padded else end - start <= most
        for slot in range(start, end):
            state = rows.get(1 + n_tokens + spare + slot)
            if state is None:
                reads_null = (tables.left_index[slot], tables.right_index[slot], tables.tracker_index[slot])
                assert reads_null == (0, 0, 0)
                continue
            assert (rows[tables.left_index[slot]], rows[tables.right_index[slot]]) == children[state]
            assert tables.tracker_index[slot] == entry_of[state]
            assert step_of[entry_of[state]] == step, "a lane composes in the step of its entry"
            made.add(state)
    assert made == set(children)
    for state, entry in entry_of.items():
        if state[1]:
            assert step_of[entry] > step_of[entry_of[state[0], state[1] - 1]]
    if width is None:
        assert all(step_of[entry] == time for entry, (_, time) in state_of.items()), "no lane waits"


@given(batch=batches)
def test_thin_stack_tables_read_what_the_stacks_hold(batch) -> None:
    tables = thin_stack_tables(*flatten(batch))
    reads, _ = simulate(batch)
    leaves = [(s, t) for s, codes in enumerate(batch) for t, code in enumerate(codes) if code == SHIFT]
    longest = max(map(len, batch))
    composed = [
        (s, t) for t in range(longest) for s, codes in enumerate(batch) if t < len(codes) and codes[t]
    ]
    rows = dict(enumerate([None, *leaves, *composed]))
    assert tables.valid_mask.shape == (longest, len(batch))
    assert tables.valid_mask.sum() == len(reads)
    for sentence, time, word, top, second in reads:
        assert tables.valid_mask[time, sentence]
        assert tables.reduce_mask[time, sentence] == (batch[sentence][time] == REDUCE)
        assert rows[tables.buffer_index[time, sentence]] == word
        assert rows[tables.stack1_index[time, sentence]] == top
        assert rows[tables.stack2_index[time, sentence]] == second
    assert [rows[row] for row in tables.root_index] == root_states(batch)
    padding = ~tables.valid_mask
    for table in (tables.buffer_index, tables.stack1_index, tables.stack2_index, tables.reduce_mask):
        assert not table[padding].any()


def test_waiting_costs_little_when_lengths_vary() -> None:
    """DESIGN, section 2: at most half of the lanes reducing at a step costs no extra step on varied lengths."""
    rng = np.random.default_rng(0)
    trees = list(all_transitions(6))
    batch = [trees[i] for i in rng.integers(len(trees), size=24)]
    batch += [left_branching(n) for n in range(3, 11)] + [right_branching(n) for n in range(3, 15)]
    tables = lane_tables(*flatten(batch), width=len(batch) // 2)
    assert len(tables.entry_offsets) - 1 == max(map(len, batch))


def test_the_sentence_with_most_left_to_do_does_not_wait() -> None:
    batch = [left_branching(3), left_branching(9), left_branching(4)]  # all want to compose at the same steps
    tables = lane_tables(*flatten(batch), width=1)
    assert len(tables.entry_offsets) - 1 == len(batch[1])


@pytest.mark.parametrize(
    "transitions, lengths, message",
    [
        ([0, 1, 0], [2], r"example 0: token 2 'R': a node with one child"),
        ([0, 0, 1, 0], [1, 2], r"example 1: token 2 'R': a node with one child"),
        ([0, 0, 2], [2], r"example 0: token 3 '2': expected 0 \(SHIFT\) or 1 \(REDUCE\)"),
        ([0, 0, 0], [2], r"example 0: token 3 'S': a SHIFT beyond the 2 tokens"),
        ([0], [2], r"shape \(1,\), expected \(3,\)"),
        ([0], [1, 0], r"example 1: a sentence without tokens"),
        ([], [], r"at least one sentence"),
    ],
)
def test_transitions_that_are_no_trees(transitions, lengths, message) -> None:
    arguments = np.array(transitions, dtype=np.int8), np.array(lengths, dtype=np.int64)
    for build in (forest_tables, lane_tables, thin_stack_tables):
        with pytest.raises(DataError, match=message):
            build(*arguments)


def test_options_that_cannot_be_met() -> None:
    batch = flatten([left_branching(3)])
    with pytest.raises(ValueError, match="n_leaf_rows is 2"):
        forest_tables(*batch, n_leaf_rows=2)
    with pytest.raises(ValueError, match="n_lanes is 0, the batch has 1"):
        lane_tables(*batch, n_lanes=0)
    with pytest.raises(ValueError, match=r"leaf_index of shape \(1,\), expected \(3,\)"):
        forest_tables(*batch, leaf_index=np.arange(1))
    with pytest.raises(ValueError, match="need a width"):
        lane_tables(*batch, padded=True)
    for build in (forest_tables, lane_tables):
        with pytest.raises(ValueError, match="width is 0"):
            build(*batch, width=0)
    for width in ([1, 0], [1, -1, 1]):
        with pytest.raises(ValueError, match="at least one lane must reduce at a step in the end"):
            lane_tables(*batch, width=np.array(width))


def test_lanes_wait_for_a_step_that_composes_at_all() -> None:
    tables = lane_tables(*flatten([left_branching(3)]), width=np.array([0, 0, 0, 0, 0, 0, 1]), padded=True)
    assert tables.reduce_offsets.tolist() == [0] * 7 + [1, 2, 3]
    # roots, of which there may be no others, make nobody ready
    assert forest_tables(*flatten([left_branching(2)] * 3), width=2).step_offsets.tolist() == [0, 2, 3]
    # nothing is composed while a word is read
    assert lane_tables(*flatten([left_branching(1)])).reduce_offsets.tolist() == [0, 0]
    assert tables.root_index.tolist() == [6]


@pytest.mark.parametrize("name", ["ForestTables", "LaneTables", "OwnTables", "HoistedLeaves"])
def test_tables_in_torch_have_the_fields_of_numpys(name: str) -> None:
    """They become each other by the order of the fields."""
    assert getattr(bundles, name)._fields == getattr(tables, name)._fields
