"""Instructions that a thread executes, from the blocks of a listing and the trip counts of the source's loops.

The rules:

* A block in no loop counts once, a block in a loop as often as the loop runs. A loop is a back edge and what leads to
  it (a natural loop); its trips come from the case, `Loop`.
* Where paths fork, the heavier one counts: an upper bound, in which a branch that is taken now and then, as for a word
  that is stored every fourth window, counts each time. A masked instruction counts whether its mask is true or not.
* A loop that does not run is no path, and neither is what leads only to it.
* The compiler may unroll one source loop into several: a loop over 16 of its iterations, a straight copy of 8, and a
  loop for the rest. How many iterations a piece holds is read from the bytes it moves; the largest pieces run first.
  If that leaves a loop that runs on no path, as when iterations were peeled off, straight pieces count as other code.
* Subroutines for denormal operands and the like, reached by a call that returns, do not count.
* What no path reaches (padding after the end) does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations, pairwise

from .listing import EXIT, Block


class UnexplainedLoopsError(ValueError):
    """The loops of the listing cannot be told from those of the source."""


@dataclass(frozen=True)
class Loop:
    """A loop of the source: how often it runs, the bytes a program moves in one iteration, the loops inside it.

    The bytes tell how far the compiler unrolled it; 0 for a loop that it does not, as one with loops inside.
    """

    trips: int
    size: float
    inner: tuple[Loop, ...] = ()


@dataclass(frozen=True)
class Counts:
    """What a thread executes."""

    instructions: float = 0.0
    vector: float = 0.0
    special: float = 0.0
    bytes: float = 0.0
    accesses: dict[tuple[str, int], float] = field(default_factory=dict)
    """Loads and stores of global memory, by kind and width in bytes."""

    def __add__(self, other: Counts) -> Counts:
        kinds = self.accesses.keys() | other.accesses.keys()
        accesses = {kind: self.accesses.get(kind, 0.0) + other.accesses.get(kind, 0.0) for kind in sorted(kinds)}
        return Counts(
            self.instructions + other.instructions,
            self.vector + other.vector,
            self.special + other.special,
            self.bytes + other.bytes,
            accesses,
        )

    def times(self, factor: float) -> Counts:
        return Counts(
            factor * self.instructions,
            factor * self.vector,
            factor * self.special,
            factor * self.bytes,
            {kind: factor * number for kind, number in self.accesses.items()},
        )


def count(blocks: Sequence[Block], loops: Sequence[Loop], threads: int) -> Counts:
    """Counts of one of a program's ``threads``, which runs ``loops`` one after another."""
    return _Region(blocks, 0, _reachable(blocks), 0).counts(loops, threads)


def of_block(block: Block) -> Counts:
    """Counts of one run of ``block``."""
    accesses = Counter((i.access, i.width) for i in block.instructions if i.access)
    return Counts(
        instructions=len(block.instructions),
        vector=sum(i.vector for i in block.instructions),
        special=sum(i.special for i in block.instructions),
        bytes=sum(i.width for i in block.instructions),
        accesses={kind: float(number) for kind, number in accesses.items()},
    )


def natural_loops(blocks: Sequence[Block]) -> dict[int, set[int]]:
    """The blocks of each loop, by its first block: the target of a jump back to a block that dominates the jump."""
    reachable = _reachable(blocks)
    before: dict[int, set[int]] = {b: set() for b in reachable}
    for b in reachable:
        for s in blocks[b].successors:
            if s != EXIT:
                before[s].add(b)
    dominators = {b: set(reachable) for b in reachable}
    dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for b in sorted(reachable - {0}):
            now = {b} | set.intersection(*(dominators[p] for p in before[b]))
            changed |= now != dominators[b]
            dominators[b] = now
    loops: dict[int, set[int]] = {}
    for b in reachable:
        for head in blocks[b].successors:
            if head != EXIT and head in dominators[b]:
                body, pending = loops.setdefault(head, {head}), [b]
                while pending:
                    block = pending.pop()
                    if block not in body:
                        body.add(block)
                        pending.extend(before[block])
    return loops


def _reachable(blocks: Sequence[Block]) -> set[int]:
    found, pending = {0}, [0]
    while pending:
        for s in blocks[pending.pop()].successors:
            if s != EXIT and s not in found:
                found.add(s)
                pending.append(s)
    return found


_Runs = dict[int, tuple[int, Loop] | None]
"""How often a piece of code runs, by its first block, and for which loop of the source; None if not at all."""


class _Region:
    """A function, or the body of a loop, with the loops directly inside it folded into one node each.

    A path leads from ``head`` to the end: to an exit in a function (``depth`` 0), back to the head in a loop.
    """

    def __init__(self, blocks: Sequence[Block], head: int, body: set[int], depth: int) -> None:
        self.blocks, self.head, self.depth = blocks, head, depth
        inside = {h: b for h, b in natural_loops(blocks).items() if b <= body and (depth == 0 or h != head)}
        outermost = {h: b for h, b in inside.items() if not any(b < other for other in inside.values())}
        self.loops = {h: _Region(blocks, h, b, depth + 1) for h, b in sorted(outermost.items())}
        self.node = {b: next((h for h, loop in outermost.items() if b in loop), b) for b in body}
        self.next: dict[int, set[int]] = {n: set() for n in self.node.values()}
        for b in body:
            for s in blocks[b].successors:
                n = self.node[b]
                if s == EXIT or (depth and s == head):
                    self.next[n].add(EXIT)
                elif s in body and self.node[s] != n:
                    self.next[n].add(self.node[s])
        if depth:
            # Leaving the loop by ending the program is not another pass through it, unless nothing else is.
            ends = {n for n in self.next if any(head in blocks[b].successors for b in body if self.node[b] == n)}
            for n in self.next:
                if n not in ends:
                    self.next[n].discard(EXIT)
        # Threads that a mask ends early are not followed, unless nothing is left to follow.
        self.early = {n for n, following in self.next.items() if EXIT in following and len(following) > 1}
        self.once = sum((of_block(blocks[b]) for b in body), Counts())

    def counts(self, sources: Sequence[Loop], threads: int) -> Counts:
        """Counts of one pass, in which ``sources`` run one after another."""
        copies = self._copies(sources[0], threads) if self.loops and len(sources) == 1 else {}
        for pieces, whole in ((copies, True), ({}, not copies)):
            runs, left = self._runs(sources, threads, pieces)
            if left and whole:
                continue
            weights = self._weights(runs, threads)
            path = self._heaviest(weights, set()) or self._heaviest(weights, self.early)
            if path and all(n in path for n, run in runs.items() if run and n in self.loops):
                return reduce(Counts.__add__, (weights[n] for n in path), Counts())
        raise UnexplainedLoopsError(f"loops at blocks {sorted(self.loops)} do not add up to {list(sources)}")

    def _weights(self, runs: _Runs, threads: int) -> dict[int, Counts]:
        """Counts of each node that a path may take."""
        weights = {}
        for n in self.next:
            run = runs.get(n)
            if n not in runs or (run and n not in self.loops):
                weights[n] = of_block(self.blocks[n])
            elif run:
                times, source = run
                weights[n] = self.loops[n].counts(source.inner, threads).times(times)
        return weights

    def _heaviest(self, weights: dict[int, Counts], early: set[int]) -> list[int] | None:
        """The path with most instructions over nodes that have a weight; nodes in ``early`` may end it as well."""
        best: dict[int, tuple[float, list[int]] | None] = {EXIT: (0.0, [])}
        for n in self._last_to_first():
            following = self.next[n] if n not in self.early or n in early else self.next[n] - {EXIT}
            options = [o for s in sorted(following) if (o := best.get(s)) is not None]
            if n not in weights or not options:
                best[n] = None
                continue
            length, rest = max(options, key=lambda option: option[0])
            best[n] = (weights[n].instructions + length, [n, *rest])
        found = best[self.node[self.head]]
        return found[1] if found else None

    def _last_to_first(self) -> list[int]:
        """Every node after all that may follow it."""
        order: list[int] = []
        state: dict[int, bool] = {}
        pending = [self.node[self.head]]
        while pending:
            n = pending[-1]
            if n not in state:
                state[n] = False
                pending.extend(s for s in self.next[n] if s != EXIT and s not in state)
            else:
                pending.pop()
                if not state[n]:
                    state[n] = True
                    order.append(n)
        return order

    def _runs(self, sources: Sequence[Loop], threads: int, copies: dict[int, int]) -> tuple[_Runs, int]:
        """How often each loop, and each of ``copies``, runs; and the iterations that fit into none."""
        if not self.loops:
            return {}, 0
        found: list[tuple[int, _Runs]] = []
        for groups in _groups(sorted(self.loops), len(sources)):
            runs: _Runs = {}
            left = 0
            for heads, source in zip(groups, sources, strict=True):
                pieces = {h: self._iterations(self.loops[h].once, source, threads) or 1 for h in heads} | copies
                rest = source.trips
                for n in sorted(pieces, key=lambda n: (-pieces[n], n in copies, n)):
                    times = min(rest // pieces[n], 1) if n in copies else rest // pieces[n]
                    rest -= times * pieces[n]
                    runs[n] = (times, source) if times else None
                left += rest
            found.append((left, runs))
        if not found:
            raise UnexplainedLoopsError(f"{len(self.loops)} loops in the code, {len(sources)} in the source")
        left, runs = min(found, key=lambda item: item[0])
        return runs, left

    def _copies(self, source: Loop, threads: int) -> dict[int, int]:
        """Blocks outside loops that hold whole iterations and that a path can avoid."""
        found = {}
        for n in self.next:
            size = 0 if n in self.loops else self._iterations(of_block(self.blocks[n]), source, threads)
            if size and self._heaviest({m: Counts(1.0) for m in self.next if m != n}, set()) is not None:
                found[n] = size
        return found

    @staticmethod
    def _iterations(counts: Counts, source: Loop, threads: int) -> int:
        return round(counts.bytes * threads / source.size) if source.size else 0


def _groups(items: list[int], number: int) -> Iterator[list[list[int]]]:
    """All ways to cut ``items`` into ``number`` runs, none of them empty."""
    for cuts in combinations(range(1, len(items)), number - 1) if number else ():
        edges = [0, *cuts, len(items)]
        yield [items[a:b] for a, b in pairwise(edges)]


def mean(counts: Iterable[Counts]) -> Counts:
    """The average, for programs of which not all run the loops equally often."""
    several = list(counts)
    return sum(several, Counts()).times(1 / len(several))
