"""``python tests/project/mutations.py``: break the neuron on purpose, one line at a time, and see the tests go red.

Each mutation is applied to a copy of the project, and a small part of the tests runs against the copy: under the
interpreter for Triton kernels, in eager mode or compiled for the CPU. A mutation that no test notices is a hole in the
tests; the command prints a table and fails if there is one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNEL, MEMBRANE, SURROGATE = "kernels/neuron.py", "kernels/membrane.py", "kernels/surrogate.py"
FUSED, TILES, GRADIENT = "kernels/fused.py", "kernels/tiles.py", "kernels/weight_gradient.py"
WINDOWS, STEPS, ARGUMENTS = "tssl_triton/cpu/neuron.py", "tssl_triton/cpu/steps.py", "tssl_triton/cpu/arguments.py"
COMPILER, PRODUCTS = "tssl_triton/cpu/compiler.py", "tssl_triton/cpu/spike_products.py"
LOOP, HALVES = "tssl_triton/cpu/csrc/loop.hpp", "tssl_triton/cpu/csrc/halves.hpp"
POOLING, SPIKES = "tssl_triton/cpu/csrc/sum_pooling.hpp", "tssl_triton/cpu/csrc/spike_products.cpp"
REGISTRATION, RECURRENT = "tssl_triton/operators/registration.py", "tssl_triton/operators/recurrent.py"
NEURON, PACKED = "tssl_triton/operators/neuron.py", "tssl_triton/operators/packed_spikes.py"
NODE, WEIGHTED, FUSED_LAYER = "tssl_triton/nn/layer_node.py", "tssl_triton/nn/weighted.py", "tssl_triton/nn/fused.py"
CONVOLUTION, SEQUENTIAL = "tssl_triton/nn/products.py", "tssl_triton/nn/sequential.py"
SETTINGS, LOSSES = "tssl_triton/operators/settings.py", "tssl_triton/losses.py"

NEURON_TESTS = [
    "tests/operators/test_golden.py",
    "tests/operators/test_windows.py",
    "tests/operators/test_packing.py",
    "tests/operators/test_edges.py",
]
RULE_TESTS = ["tests/operators/test_rules.py"]
LEARNT_TESTS = ["tests/operators/test_learnt.py", "tests/nn/test_recurrent.py"]
FUSED_TESTS = ["tests/operators/test_fused.py", "tests/nn/test_fused.py"]
CPU_TESTS = ["tests/cpu"]
NODE_TESTS = [f"tests/nn/test_{name}.py" for name in ("layer_node", "layers", "rules", "saved_bytes")]

INTERPRETED, EAGER, NATIVE = {"TRITON_INTERPRET": "1"}, {"TSSL_CPU": "eager"}, dict[str, str]()

CHECKED_BY = {
    # The first failure ends a run, so the longest tests come last.
    **dict.fromkeys((KERNEL, MEMBRANE), (INTERPRETED, [*NEURON_TESTS, *RULE_TESTS])),
    SURROGATE: (INTERPRETED, RULE_TESTS),
    **dict.fromkeys((FUSED, TILES, GRADIENT, FUSED_LAYER), (INTERPRETED, FUSED_TESTS)),
    WINDOWS: (EAGER, [*NEURON_TESTS, *RULE_TESTS, *LEARNT_TESTS]),
    ARGUMENTS: (EAGER, NEURON_TESTS),
    STEPS: (EAGER, [*NEURON_TESTS, *RULE_TESTS, *LEARNT_TESTS]),
    **dict.fromkeys((COMPILER, PRODUCTS, LOOP, HALVES, POOLING, SPIKES), (NATIVE, CPU_TESTS)),
    RECURRENT: (EAGER, LEARNT_TESTS),
    REGISTRATION: (EAGER, ["tests/operators/test_registration.py"]),
    SETTINGS: (NATIVE, ["tests/operators/test_settings.py"]),
    NEURON: (NATIVE, ["tests/operators/test_opcheck.py"]),
    **dict.fromkeys((NODE, WEIGHTED, CONVOLUTION, SEQUENTIAL, PACKED), (NATIVE, NODE_TESTS)),
    LOSSES: (NATIVE, ["tests/test_losses.py", "tests/nn/test_autograd.py"]),
}
"""The mode in which the tests of a file run, and these tests."""


@dataclass(frozen=True)
class Mutation:
    """One text replaced by another in one file."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation("intra-neuron term: sign", KERNEL, "tl.fma(u * intra, delta, g)", "tl.fma(-u * intra, delta, g)"),
    Mutation("intra-neuron term: sign", STEPS, "g + rho * delta", "g - rho * delta"),
    Mutation("intra-neuron term: dropped", KERNEL, "error = tl.fma(u * intra, delta, g)", "error = g"),
    Mutation("intra-neuron term: dropped", STEPS, "g + rho * delta", "g"),
    Mutation("leak path: dropped", KERNEL, "leak * delta)", "0.0 * delta)"),
    Mutation("leak path: dropped", STEPS, "else p.alpha * delta", "else 0.0 * delta"),
    Mutation("mask word: off by one", KERNEL, "s.to(tl.float32), 1 << k,", "s.to(tl.float32), 2 << k,"),
    Mutation("mask word: off by one", WINDOWS, "(fired.to(torch.int32) << k)", "(fired.to(torch.int32) << (k + 1))"),
    Mutation("mask word: wrong part", KERNEL, "bits >> (WINDOW * (w % PER_WORD))", "bits >> (WINDOW * (w % 2))"),
    Mutation("mask word: wrong part", ARGUMENTS, "torch.full((), argument,", "torch.full((), argument % 16,"),
    Mutation("warm-up: skipped", KERNEL, "emitted = tl.where(warm, g *", "emitted = tl.where(warm & False, g *"),
    Mutation(
        "warm-up: skipped",
        STEPS,
        "torch.where(warm, g * slope, emitted)",
        "emitted",
    ),
    Mutation("warm-up: own current not decaying", MEMBRANE, "times_plus(a, beta,", "times_plus(a, 1.0,"),
    Mutation("warm-up: own current not decaying", WINDOWS, "a = filtered(p, a, fired.to(i.dtype))", "a = a + fired"),
    Mutation(
        "slope: not bounded",
        KERNEL,
        "tl.where(du > 1.0 / MAX_SLOPE, du, 1.0 / MAX_SLOPE)",
        "tl.where(du > 1e-9, du, 1e-9)",
    ),
    Mutation("slope: not bounded", STEPS, "torch.clamp(du, min=1.0 / p.max_slope)", "du"),
    Mutation("synapse: not transposed", KERNEL, "filter_step(e, emitted, beta,", "filter_step(e, emitted, 0.0,"),
    Mutation("synapse: not transposed", WINDOWS, "filtered(p, e, emitted)", "emitted / p.tau_syn"),
    Mutation("threshold: not strict", KERNEL, "s = (u > threshold)", "s = (u >= threshold)"),
    Mutation("threshold: not strict", WINDOWS, "fired = u > p.threshold", "fired = u >= p.threshold"),
    Mutation("no-intra: ignored", KERNEL, '== "no-intra"', '== "other"'),
    Mutation("no-intra: ignored", STEPS, 'p.variant == "no-intra"', 'p.variant == "other"'),
    Mutation("no-leak: ignored", KERNEL, '== "no-leak"', '== "other"'),
    Mutation("no-leak: ignored", STEPS, 'p.variant == "no-leak"', 'p.variant == "other"'),
    Mutation("warm-up only: ignored", KERNEL, "emitted = g * INV_", "emitted += g * INV_"),
    Mutation("warm-up only: ignored", STEPS, 'if p.warmup == "always" else', 'if p.warmup == "other" else'),
    Mutation("surrogate: reset's path, sign", SURROGATE, "tl.fma(-u, after, g)", "tl.fma(u, after, g)"),
    Mutation("surrogate: reset's path, sign", STEPS, "g = g - (u", "g = g + (u"),
    Mutation("surrogate: threshold dropped", SURROGATE, "times_plus(after, -threshold, g)", "g"),
    Mutation("surrogate: reset ignored", SURROGATE, "tl.where(fired, 0.0, after)", "after"),
    Mutation("surrogate: reset ignored", STEPS, "torch.where(fired, 0.0, after)", "after"),
    Mutation("surrogate: SLAYER resets", SURROGATE, 'RESET_GRADIENT != "none" and', ""),
    Mutation("surrogate: no leak", SURROGATE, "after = alpha * delta", "after = delta"),
    Mutation("surrogate: no leak", STEPS, "after = p.alpha * delta", "after = delta"),
    Mutation(
        "surrogate: synapse not transposed", SURROGATE, "filter_step(e, delta, beta,", "filter_step(e, delta, 0.0,"
    ),
    Mutation("surrogate: bits of another window", SURROGATE, "bits >> (WINDOW * (w % PER_WORD))", "bits >> 0"),
    Mutation("surrogate: checkpoint of another", SURROGATE, "3 * (w - 1) * stride", "0 * w * stride"),
    Mutation("surrogate: rectangle too wide", SURROGATE, "< 0.5 * WIDTH", "< 0.6 * WIDTH"),
    Mutation("surrogate: triangle too wide", SURROGATE, "tl.where(z < 1.0, 1.0 - z, 0.0)", "1.0 - z"),
    Mutation("surrogate: arctan too narrow", SURROGATE, "tl.fma(z, z, ", "tl.fma(z, 2.0 * z, "),
    Mutation("surrogate: fast sigmoid not squared", SURROGATE, "unit = inverse * inverse", "unit = inverse"),
    Mutation("surrogate: sigmoid's height", SURROGATE, "4.0 * power", "2.0 * power"),
    Mutation("surrogate: exponential's base", SURROGATE, "LOG2E / WIDTH", "1.0 / WIDTH"),
    Mutation("surrogate: height", STEPS, "rule.peak * power\n", "power\n"),
    Mutation("fused: bias left out", FUSED, "y += bias[None, :]", "y += 0.0 * bias[None, :]"),
    Mutation("fused: bits of another step", FUSED, "<< (t % WORD)\n        step_ptr", "<< (t % 8)\n        step_ptr"),
    Mutation("fused: checkpoints in one place", FUSED, "3 * (t // WINDOW) * row", "0 * (t // WINDOW) * row"),
    Mutation("fused: y not rounded", FUSED, "rounded.to(tl.float32), BETA", "y, BETA"),
    Mutation("tiles: padding not masked", TILES, "valid & (h >= 0) & (h < H) &", "valid &"),
    Mutation("weight gradient: one step for all", GRADIENT, "tl.int32) << k", "tl.int32) << 0"),
    Mutation("weight gradient: last share lost", GRADIENT, "partial.sum(0)", "partial[:-1].sum(0)"),
    Mutation("fused: gradient of the weights as y's", FUSED_LAYER, "if needed[2]:", "if False:"),
    Mutation(
        "fused: start forgotten in recomputing", FUSED_LAYER, "weight, bias, start, True", "weight, bias, None, True"
    ),
    Mutation("learnt: silent steps cross the threshold", STEPS, "= -step.crossing", "= -step.emitted"),
    Mutation("learnt: reset takes no threshold away", STEPS, "p.alpha * step.delta_after, 0.0", "0.0, 0.0"),
    Mutation("learnt: synapse's memory forgotten", STEPS, "step.current_before - step.weighted", "-step.weighted"),
    Mutation("learnt: alpha for tau_mem", STEPS, "1.0 / (p.tau_mem * p.tau_mem)", "1.0"),
    Mutation("learnt: warm-up crosses no threshold", STEPS, "fired | warm", "fired"),
    Mutation("learnt: silent steps cross the threshold", KERNEL, "tl.where(fired | warm, emitted, 0.0)", "emitted"),
    Mutation("learnt: warm-up crosses no threshold", KERNEL, "tl.where(fired | warm,", "tl.where(fired,"),
    Mutation(
        "learnt: reset takes no threshold away", KERNEL, "of_threshold -= tl.where(", "of_threshold -= 0.0 * tl.where("
    ),
    Mutation(
        "learnt: reset takes no threshold away", SURROGATE, "-= tl.where(fired, after", "-= tl.where(fired, 0.0 * after"
    ),
    Mutation(
        "learnt: window does not cross the threshold", SURROGATE, "tl.fma(-slope, g, of_threshold)", "of_threshold"
    ),
    Mutation("learnt: potential of the step before last", SURROGATE, "us[k - 1], ((bits", "us[k], ((bits"),
    Mutation("learnt: alpha for tau_mem", MEMBRANE, "of_tau_mem *= inv_tau_mem * inv_tau_mem", "of_tau_mem *= 1.0"),
    Mutation("learnt: synapse's memory forgotten", MEMBRANE, "u), e_after - e, of_tau_syn)", "u), -e, of_tau_syn)"),
    Mutation("learnt: state before the run forgotten", MEMBRANE, "tl.fma(e, i, of_tau_syn)", "of_tau_syn"),
    Mutation("learnt: parts not added up", MEMBRANE, "    if ADD:", "    if ADD and False:"),
    Mutation(
        "learnt: errors not carried",
        KERNEL,
        "stride, mask, delta, e)",
        "stride, mask, e, e)",
    ),
    Mutation(
        "learnt: errors not carried",
        SURROGATE,
        "stride, mask, delta, e)",
        "stride, mask, e, e)",
    ),
    Mutation(
        "learnt: errors not carried", WINDOWS, "_zeros(2, current) if carry is None else carry", "_zeros(2, current)"
    ),
    Mutation(
        "recurrent: V for its transpose", RECURRENT, "grad_y[t + 1], dense_weight)", "grad_y[t + 1], dense_weight.t())"
    ),
    Mutation("recurrent: error of this step's neurons", RECURRENT, "g = torch.addmm(g, ", "torch.addmm(g, "),
    Mutation("recurrent: spikes of the same step", RECURRENT, "cat([first, spikes[:-1]])", "cat([spikes[1:], first])"),
    Mutation("recurrent: state of one step for all", RECURRENT, "before_each[t % WINDOW]", "before_each[0]"),
    Mutation("native: products contracted", COMPILER, '"-ffp-contract=off"', '"-ffp-contract=fast", "-ffast-math"'),
    Mutation("native: last neurons left out", LOOP, "end < neurons ? end : neurons", "end <= neurons ? end : first"),
    Mutation("native: one row for all", LOOP, "place[0] + k * place[1]", "place[0]"),
    Mutation(
        "native: exponential without its rest",
        LOOP,
        "fused(k, 2.12194440e-4f, fused(k, -0.693359375f, x))",
        "fused(k, -0.693359375f, x)",
    ),
    Mutation("native: reciprocal half done", LOOP, "return fused(y, fused(e, e, e), y);", "return y;"),
    Mutation("native: bfloat16 cut off", HALVES, "0x7fffu + ((bits >> 16) & 1u)", "0u"),
    Mutation("native: float16 cut off", HALVES, "0xfffu + ((size >> 13) & 1u)", "0u"),
    Mutation("native: small float16 read as large", HALVES, "size < 0x400u ?", "size < 0u ?"),
    Mutation("native: float16 without end", HALVES, "size >= 0x477ff000u ? 0x7f800000u : finite", "finite"),
    Mutation("native: small float16 rounded as large", HALVES, "+ 0.5f) - 0.5f)", "))"),
    Mutation("pooling: edge not cleared", POOLING, "for (int64_t w = x.used(); w < x.row(); ++w) to[w] = 0;", ""),
    Mutation("pooling: bits of the first word", POOLING, "((t / 32) * x.planes + first + c)", "(first + c)"),
    Mutation("pooling: counts of all steps", POOLING, "counts[n] >> FIELD * k", "counts[n] >> k"),
    Mutation("pooling: channels on one another", POOLING, "counts[w * channels + c] =", "counts[w * channels] ="),
    Mutation("pooling: gradient not scaled", POOLING, "= T::written(T::read(grad[w]) * scale)", "= grad[w]"),
    Mutation("spike products: first steps of a word", SPIKES, "(uint32_t)word >> bit &", "(uint32_t)word &"),
    Mutation("spike products: all steps the first", SPIKES, "[pattern][t], sum)", "[pattern][0], sum)"),
    Mutation("spike products: one error for all steps", SPIKES, "[pattern][t], errors[t])", "[pattern][t], errors[0])"),
    Mutation("spike products: one group of all", SPIKES, "++n < last && pattern_of(*n) == pattern", "++n < last"),
    Mutation("spike products: samples share a list", SPIKES, "+ batch + 1 + lists[b];", "+ batch + 1;"),
    Mutation("spike products: few, last step alone", SPIKES, "= errors[before] + error;", "= error;"),
    Mutation("spike products: few, not dropped", SPIKES, "(factors ? factors[from + j] : 1.0f) * error", "error"),
    Mutation("spike products: groups overlap", SPIKES, "before += size;", "before += 1;"),
    Mutation(
        "spike products: outputs beyond the last",
        SPIKES,
        "if (count >= LANES) *(Vector*)to = x;",
        "if (true) *(Vector*)to = x;",
    ),
    Mutation("convolution: bias forgotten", CONVOLUTION, "(False, True, of_bias)", "(False, True, False)"),
    Mutation("losses: filtered forwards on the way back", LOSSES, "ctx.tau_syn, True,", "ctx.tau_syn, False,"),
    Mutation(
        "losses: one of two gradients",
        LOSSES,
        "found = found if of_difference is None else found + of_difference",
        "pass",
    ),
    Mutation("operators: gradient forgotten", REGISTRATION, "if not torch.is_grad_enabled()", "if True"),
    Mutation("spike products: last window alone", PRODUCTS, "*addresses, *sizes, k > 0)", "*addresses, *sizes, 0)"),
    Mutation("operators: modes not asked", REGISTRATION, "_torch_private.dispatch_modes() or", ""),
    Mutation("operators: tensors not looked at", REGISTRATION, "type(tensor) not in _PLAIN or", ""),
    Mutation("operators: another order of checkpoints", NEURON, "in_layout_of(checkpoints, current)", "checkpoints"),
    Mutation("operators: settings lose digits", SETTINGS, "types[name](value)", "types[name](value[:6])"),
    Mutation("node: y kept when it is overwritten", NODE, "x.active), ctx.own = ctx.own, None", "x.active) = ctx.own"),
    Mutation("node: every incoming gradient private", NODE, "if ctx.private and not", "if not"),
    Mutation("node: hooks not asked", NODE, "saved_tensor_hooks(False) is not None and", "False and"),
    Mutation("node: y overwritten under hooks", NODE, "overwrite=not ctx.watched", "overwrite=True"),
    Mutation(
        "node: state forgotten in backward",
        NODE,
        "constants, words, checkpoints, start",
        "constants, words, checkpoints, None",
    ),
    Mutation(
        "node: autocast of backward",
        NODE,
        "set_autocast(weight.device.type, layer.autocast)",
        "set_autocast(weight.device.type, None)",
    ),
    Mutation("node: checkpoints not computed again", NODE, "if layer.steps > WINDOW:", "if False:"),
    Mutation("weighted: another rule's", WEIGHTED, "Neuron(self.params, self.rule)", "Neuron(self.params)"),
    Mutation("weighted: recompute ignored", WEIGHTED, "own.recompute, own.autocast", "False, own.autocast"),
    Mutation(
        "sequential: hooks not asked", SEQUENTIAL, "any(getattr(layer, hooks)", "False and any(getattr(layer, hooks)"
    ),
    Mutation(
        "packed: pooling forgotten",
        PACKED,
        "functions = (*self.recipe.functions, (function, len(tensors)))",
        "functions = self.recipe.functions",
    ),
)


def copy_project(target: Path) -> None:
    """The sources, laid out as they are installed, and the tests."""
    for source, package in (("tssl_triton", ""), ("kernels", "kernels"), ("reference", "reference")):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / source, target / "tssl_triton" / package, ignore=ignore, dirs_exist_ok=True)
    for folder in ("bench", "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)


def installed(target: Path, file: str) -> Path:
    return target / ("tssl_triton/" + file if file.startswith("kernels/") else file)


def is_green(target: Path, file: str, learnt: bool = False) -> bool:
    """Whether the tests of ``file``, or of learnt constants in it, pass in the mode that runs it."""
    mode, tests = CHECKED_BY[file]
    tests = LEARNT_TESTS if learnt else tests
    environment = {**os.environ, **mode, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    where = "import tssl_triton, sys; sys.exit(not tssl_triton.__file__.startswith(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", where, str(target)], env=environment, cwd=target, check=True)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    run = subprocess.run(command, cwd=target, env=environment, capture_output=True, check=False)
    if run.returncode > 1:  # below 0: killed, by a loop that wrote where it must not
        raise RuntimeError(run.stdout.decode() + run.stderr.decode())
    return run.returncode == 0


def lost() -> list[str]:
    """Mutations whose text is not in its file, or which change nothing."""
    return [
        f"{mutation.name}: {mutation.old!r} is not in {mutation.file} any more"
        for mutation in MUTATIONS
        if mutation.old not in (ROOT / mutation.file).read_text() or mutation.old == mutation.new
    ]


def main() -> int:
    survivors = []
    if lines := lost():
        print("\n".join(lines))
        return 1
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder).resolve()
        copy_project(target)
        for file in (KERNEL, SURROGATE, FUSED, STEPS, LOOP, RECURRENT, REGISTRATION, SETTINGS, NODE, LOSSES):
            if not is_green(target, file):
                print(f"the tests of {file} are red without any mutation")
                return 1
        for mutation in MUTATIONS:
            path = installed(target, mutation.file)
            text = path.read_text()
            path.write_text(text.replace(mutation.old, mutation.new))
            green = is_green(target, mutation.file, mutation.name.startswith("learnt:"))
            path.write_text(text)
            print(f"{mutation.name:36} {mutation.file:22} {'SURVIVES' if green else 'red'}", flush=True)
            survivors += [mutation] if green else []
    print(f"{len(MUTATIONS) - len(survivors)} of {len(MUTATIONS)} mutations are noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
