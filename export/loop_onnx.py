"""The machine's loop in ONNX, written out: what `export.step` says, in operators that runtimes have.

An exporter would write the dense step, which composes in every lane though about half of them reduce, and carries
memory for the deepest stack that there can be. ONNX can do better: `NonZero` finds the lanes that reduce, and what a
`Loop` carries may change its shape, so that the memory of composed states is as deep as the deepest lane is now.

    rows       a composed state is named by a negative number, its row counted from the end of the memory, which grows
               and shrinks at its front: row -1 is null, slot d of lane b is row -2 - d B - b
    entries    r > 0 a word's row, 0 no entry, r < 0 a composed state. So min(r, -1) reads the memory and max(r, 0) the
               words, one of them a null row, and the sum of both is the state
    place      where in `entries` the top of a lane's stack is; under each stack there are two empty places

A lane that has ended neither shifts nor reduces, and its root stays where it is.

How it gets into a file, in three steps:

    machine_loop    an operator of torch that only has shapes; a graph that is to be ONNX calls it for its loop
    placeholder     what the exporter writes for it: a call of a function of the same name, which ONNX does not know
    with_loop       that function, in ONNX's own notation, is added to the model and inlined where it is called
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

DOMAIN = "spinn_export"
NAME = "machine_loop"
CELL = "cell"

# Before the loop, once. {..} are numbers, or lines that depend on the graph; N is taken from T = 2N - 1.
_START = """
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    minus_one = Constant <value_int = -1> ()
    axis0 = Constant <value_ints = [0]> ()
    axis1 = Constant <value_ints = [1]> ()
    true = Cast <to = 9> (one)
    zeros3 = Constant <value_ints = [0, 0, 0]> ()
    below = Constant <value_ints = [-1, 0]> ()
    tracker_split = Constant <value_ints = [{3K}, {K}]> ()
    gate_split = Constant <value_ints = [{H}, {4H}]> ()
    sigmoid_split = Constant <value_ints = [{H}, {2H}, {H}]> ()
    both_h = Constant <value_ints = [0, {2H}]> ()
    both_f = Constant <value_ints = [0, 2, {H}]> ()
    encoding = Constant <value_ints = [{H}]> ()

    lanes1 = Shape (lengths)
    lanes = Squeeze (lanes1, axis0)
    minus_lanes = Neg (lanes1)
    steps1 = Shape (numbers)
    steps = Squeeze (steps1, axis0)
    five = Constant <value_int = 5> ()
    two = Constant <value_int = 2> ()
    steps_and_five = Add (steps, five)
    width = Div (steps_and_five, two)
    lane = Range (zero, lanes, one)
    lane_start = Mul (lane, width)
    base_flat = Add (lane_start, one)
    base = Unsqueeze (base_flat, axis1)
    last_word = Add (before, lengths)
    next0 = Add (before, one)
    minus_two = Constant <value_int = -2> ()
    fresh0 = Sub (minus_two, lane)
    n_entries = Mul (lanes1, width)
    entries0 = ConstantOfShape <value = int64[1] {{0}}> (n_entries)
    states_shape = Constant <value_ints = [1, {S}]> ()
    states0 = ConstantOfShape <value = {real}[1] {{0}}> (states_shape)
    seconds_shape = Constant <value_ints = [1, {4K}]> ()
    seconds0 = ConstantOfShape <value = {real}[1] {{0}}> (seconds_shape)
    tracker_dim = Constant <value_ints = [{K}]> ()
    gate_dim = Constant <value_ints = [{4K}]> ()
    tracker_shape = Concat <axis = 0> (lanes1, tracker_dim)
    tops_shape = Concat <axis = 0> (lanes1, gate_dim)
    tracker0 = ConstantOfShape <value = {real}[1] {{0}}> (tracker_shape)
    tops0 = ConstantOfShape <value = {real}[1] {{0}}> (tops_shape)
"""

# What a choice that is none scores; onnxruntime warns of constants that nothing reads.
_LIMITS = """
    infinity = Constant <value = {real} {{inf}}> ()
    minus_infinity = Constant <value = {real} {{-inf}}> ()
"""

_LOOP = """
    states, seconds, tops, h, c, entries, place, next, fresh, n_rows, scores = Loop (
        steps, true, states0, seconds0, tops0, tracker0, tracker0, entries0, base, next0, fresh0, axis1
    ) <body = step (
        int64 number, bool go, {real}[] states_in, {real}[] seconds_in, {real}[] tops_in, {real}[] h_in, {real}[] c_in,
        int64[] entries_in, int64[] place_in, int64[] next_in, int64[] fresh_in, int64[] n_rows_in
    ) => (
        bool go_on, {real}[] states_out, {real}[] seconds_out, {real}[] tops_out, {real}[] h_out, {real}[] c_out,
        int64[] entries_out, int64[] place_out, int64[] next_out, int64[] fresh_out, int64[] n_rows_out,
        {told}
    ) {{
        {body}
    }}>
"""

# What a step reads, and the tracker.
_TRACK = """
    go_on = Identity (go)
    is_empty = Greater (next_in, last_word)
    word = Where (is_empty, zero, next_in)
    places = Add (place_in, below)
    pair = Gather (entries_in, places)
    left = Gather <axis = 1> (pair, zero)
    left_row = Min (left, minus_one)
    left_word = Max (left, zero)
    second_composed = Gather (seconds_in, left_row)
    second_word = Gather (word_second, left_word)
    word_reads = Gather (word_buffer, word)
    {tracker_sums}
    sums = Sum (word_reads, tops_in, second_composed, second_word, from_h)
    sums_sigmoid, sums_g = Split <axis = 1> (sums, tracker_split)
    sigmoids = Sigmoid (sums_sigmoid)
    g = Tanh (sums_g)
    i, f, o = Split <axis = 1, num_outputs = 3> (sigmoids)
    kept = Mul (f, c_in)
    added = Mul (i, g)
    c_out = Add (kept, added)
    tanh_c = Tanh (c_out)
    h_out = Mul (o, tanh_c)
"""

_CHOOSE = """
    score_of = MatMul (h_out, score)
    or_has_to = Where (is_empty, infinity, score_of)
    may_reduce = Cast <to = 9> (left)
    told = Where (may_reduce, or_has_to, minus_infinity)
    reduces = Greater (told, score_limit)
"""

_GIVEN = """
    reduces = Gather (given, number)
"""

# Where stacks and buffers are after it; the memory is made as deep as that needs.
_MOVE = """
    stays = Or (is_empty, reduces)
    next_one = Add (next_in, one)
    next_out = Where (stays, next_in, next_one)
    move_flat = Where (stays, minus_one, one)
    move = Unsqueeze (move_flat, axis1)
    moved = Add (place_in, move)
    place_out = Max (moved, base)
    are_composed = Less (pair, zero)
    fresh_column = Unsqueeze (fresh_in, axis1)
    rows_left = Where (are_composed, pair, fresh_column)
    row = ReduceMax <keepdims = 0> (rows_left, axis1)
    entry = Where (reduces, row, word)
    entries_out = ScatterND (entries_in, place_out, entry)
    row_after = Sub (row, lanes1)
    fresh_out = Where (reduces, row_after, fresh_in)
    deepest = ReduceMin <keepdims = 1> (fresh_out, axis0)
    n_rows_out = Sub (minus_lanes, deepest)
    growth = Sub (n_rows_out, n_rows_in)
    pads = Concat <axis = 0> (growth, zeros3)
    states_deep = Pad (states_in, pads)
    seconds_deep = Pad (seconds_in, pads)
"""

# The n lanes that reduce, perhaps none.
_COMPOSE = """
    reducing = NonZero (reduces)
    lane_index = Squeeze (reducing, axis0)
    children = Gather (pair, lane_index)
    child_row = Min (children, minus_one)
    child_word = Max (children, zero)
    child_composed = Gather (states_in, child_row)
    child_leaf = Gather (word_states, child_word)
    child = Add (child_composed, child_leaf)
    tracker_h = Gather (h_out, lane_index)
    {made}
    made_rows = Gather (row, lane_index)
    made_index = Unsqueeze (made_rows, axis1)
    states_out = ScatterND (states_deep, made_index, made)
    {stack_reads}
    made_second, made_top = Split <axis = 1, num_outputs = 2> (stack_reads)
    seconds_out = ScatterND (seconds_deep, made_index, made_second)
    word_tops = Gather (word_top, word)
    lane_column = Unsqueeze (lane_index, axis1)
    tops_out = ScatterND (word_tops, lane_column, made_top)
"""

_TREELSTM = """
    child_h, child_c = Split <axis = 2, num_outputs = 2> (child)
    children_h = Reshape (child_h, both_h)
    composed_from = Concat <axis = 1> (children_h, tracker_h)
    {compose_sums}
    gate_sums = Add (composed_sums, compose_bias)
    sums_a, sums_gates = Split <axis = 1> (gate_sums, gate_split)
    a = Tanh (sums_a)
    gates = Sigmoid (sums_gates)
    gate_i, gates_f, gate_o = Split <axis = 1> (gates, sigmoid_split)
    gate_f = Reshape (gates_f, both_f)
    kept_both = Mul (gate_f, child_c)
    kept_c = ReduceSum <keepdims = 0> (kept_both, axis1)
    added_c = Mul (a, gate_i)
    made_c = Add (kept_c, added_c)
    tanh_made = Tanh (made_c)
    made_h = Mul (gate_o, tanh_made)
    made = Concat <axis = 1> (made_h, made_c)
"""

# Any other cell: a call, in whose place `with_loop` puts its nodes.
_CELL = """
    child_left = Gather <axis = 1> (child, zero)
    child_right = Gather <axis = 1> (child, one)
    made = {domain}.{cell} (child_left, child_right, tracker_h)
    made_h = Slice (made, axis0, encoding, axis1)
"""

_ROOTS = """
    root_place = Add (base_flat, one)
    root = Gather (entries, root_place)
    root_row = Min (root, minus_one)
    root_word = Max (root, zero)
    root_composed = Gather (states, root_row)
    root_leaf = Gather (word_states, root_word)
    root_states = Add (root_composed, root_leaf)
    encodings = Slice (root_states, axis0, encoding, axis1)
"""


@torch.library.custom_op(f"{DOMAIN}::{NAME}", mutates_args=())
def machine_loop(
    word_states: Tensor,  # `Words`
    word_buffer: Tensor,
    word_second: Tensor,
    word_top: Tensor,
    before: Tensor,
    lengths: Tensor,
    buffer: Tensor,  # `StepWeights`
    stack: Tensor,
    hidden: Tensor,
    tracker_bias: Tensor,
    score: Tensor,
    score_limit: Tensor,
    numbers: Tensor,  # (T,) int64 0, 1, ...
    given: Tensor | None,  # (T, B) bool, True = REDUCE; None = the trackers choose
    compose: Tensor | None,  # `TreeLSTMCell`; None = another cell
    compose_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    # (B, H) encodings, (T, B) scores of `export.step.decide`, of given transitions nothing
    """Stand for the whole loop as one operator, to be exported and never run."""
    raise NotImplementedError("machine_loop is to be exported to ONNX, see spinn_tensor.export.loop_onnx")


@machine_loop.register_fake
def _(word_states, word_buffer, word_second, word_top, before, lengths, buffer, *others):
    _, _, _, _, _, numbers, *_ = others
    n_lanes = lengths.shape[0]
    encodings = word_states.new_empty(n_lanes, buffer.shape[0])
    return encodings, word_states.new_empty(numbers.shape[0], n_lanes)


_INPUTS = """
    word_states word_buffer word_second word_top before lengths
    buffer stack hidden tracker_bias score score_limit numbers
"""


def function_text(
    hidden_dim: int,  # H
    tracker_dim: int,  # K
    state_dim: int,  # S
    *,
    treelstm: bool,  # else the cell is a call of a function
    given: bool,
    half: bool,  # float16 products
    double: bool,  # float64 states, sums and products
    opset: int,
) -> str:
    """Return `machine_loop` in ONNX's notation; weights of which the loop makes no use are inputs all the same."""
    products = {
        "tracker_sums": _product("from_h", "h_in", "hidden", half),
        "compose_sums": _product("composed_sums", "composed_from", "compose", half),
        "stack_reads": _product("stack_reads", "made_h", "stack", half),
    }
    real = "double" if double else "float"
    sizes = {"S": state_dim, "H": hidden_dim, "2H": 2 * hidden_dim, "4H": 4 * hidden_dim}
    sizes |= {"K": tracker_dim, "3K": 3 * tracker_dim, "4K": 4 * tracker_dim}
    made = (_TREELSTM if treelstm else _CELL).format(**products, domain=DOMAIN, cell=CELL)
    body = (_TRACK + (_GIVEN if given else _CHOOSE) + _MOVE + _COMPOSE).format(**products, made=made)
    told = "bool[] reduces" if given else f"{real}[] told"
    start = _START + (_LIMITS if not given else "")
    text = start.format(real=real, **sizes) + _LOOP.format(body=body, real=real, told=told) + _ROOTS
    inputs = [*_INPUTS.split(), *given * ["given"], *treelstm * ["compose", "compose_bias"]]
    return (
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}, "{DOMAIN}": 1]>\n'
        f"{NAME} ({', '.join(inputs)}) => (encodings, scores) {{{text}}}"
    )


def _product(name: str, x: str, weight: str, half: bool) -> str:
    if not half:
        return f"{name} = MatMul ({x}, {weight})"
    return (
        f"{name}_x = Cast <to = 10> ({x})\n"
        f"{name}_y = MatMul ({name}_x, {weight})\n"
        f"{name} = Cast <to = 1> ({name}_y)"
    )


def placeholder(*inputs):
    """Write a call of the function for `machine_loop`, as the exporter asks."""
    import onnx_ir as ir
    from onnxscript import evaluator

    node = ir.Node(DOMAIN, NAME, [value for value in inputs if value is not None], num_outputs=2)
    evaluator.default().nodes.append(node)
    return node.outputs


# for `torch.onnx.export`
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.spinn_export.machine_loop.default: placeholder
}


def with_loop(proto: ModelProto, cell: ModelProto | None, *sizes: int, **options: Any) -> ModelProto:
    """Return the model with the loop in the place of its call, in it the cell where it is not the TreeLSTM.

    What else it is given are the arguments of `function_text`.
    """
    from onnx import inliner, parser

    text = function_text(*sizes, treelstm=cell is None, **options)
    proto.functions.append(parser.parse_function(text))
    if all(imported.domain != DOMAIN for imported in proto.opset_import):
        proto.opset_import.add(domain=DOMAIN, version=1)
    proto = inliner.inline_local_functions(proto)
    if cell is not None:
        _insert(proto, cell)
    for imported in [imported for imported in proto.opset_import if imported.domain == DOMAIN]:
        proto.opset_import.remove(imported)
    return proto


def _insert(proto: ModelProto, cell: ModelProto) -> None:
    """Put the cell's nodes in the place of its call in the loop's body, and its weights beside all others."""
    from onnx import compose, helper

    graph = compose.add_prefix(cell, f"{CELL}.").graph
    proto.graph.initializer.extend(graph.initializer)
    bodies = (
        attribute.g for node in proto.graph.node for attribute in node.attribute if attribute.HasField("g")
    )
    body, place = next(
        (body, place) for body in bodies for place, node in enumerate(body.node) if node.op_type == CELL
    )
    before, call, after = body.node[:place], body.node[place], body.node[place + 1 :]
    read = [
        helper.make_node("Identity", [of], [into.name])
        for of, into in zip(call.input, graph.input, strict=True)
    ]
    made = helper.make_node("Identity", [graph.output[0].name], list(call.output))
    nodes = [*before, *read, *graph.node, made, *after]
    del body.node[:]
    body.node.extend(nodes)
