"""Recurrent layers, as a GPU library runs them: one product over all steps, then a small one for each step."""

from __future__ import annotations

from graphs.tracing.layout import View
from graphs.tracing.rules.core import Call, Priced, product_dtype, rule, traffic

_NOTE = "recurrent layer as a product over all steps and one for each step"


@rule("lstm", "gru", "rnn_tanh", "rnn_relu", whole=True)
def recurrent(call: Call) -> list[Priced]:
    x, weights = call.args[0], call.arg(99, "params")
    if "batch_sizes" in call.schema:
        return traffic(call, "packed sequences as the traffic of their tensors")
    batch_first = bool(call.arg(99, "batch_first", False))
    *lead, _ = x.shape
    # Unbatched input has no batch dimension.
    steps, batch = (lead[0], 1) if len(lead) == 1 else (lead[1], lead[0]) if batch_first else (lead[0], lead[1])
    dtype = product_dtype(x)[0]
    out: list[Priced] = []
    # Each layer and direction holds a weight of the input and one of the state, both (gates, width), and biases.
    matrices = [w for w in weights if isinstance(w, View) and len(w.shape) == 2]
    per_cell = 3 if any(w.shape[0] != matrices[0].shape[0] for w in matrices) else 2
    for i in range(0, len(matrices) - 1, per_cell):
        of_input, of_state = matrices[i], matrices[i + 1]
        gates = of_input.shape[0]
        first = {"m": steps * batch, "n": gates, "k": of_input.shape[1], "bias": True}
        step = {"m": batch, "n": gates, "k": of_state.shape[1], "bias": True}
        out.append(Priced("linear", first, dtype, "near", _NOTE))
        out += [Priced("linear", step, dtype, "near", _NOTE)] * steps
        out += [Priced("sigmoid", {"numel": batch * gates}, dtype, "proxy", "the gates of one step")] * steps
    return out
