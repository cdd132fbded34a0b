"""Instructions that a thread executes, from a listing's basic blocks and the trip counts of the source's loops.

Rules:

* A block outside loops counts once, a block inside a loop once per iteration. Loops of the listing are natural loops;
  trip counts come from the case (`Loop`).
* At a fork the path with more instructions counts. This is an upper bound: a branch taken only sometimes, as for a word
  stored every fourth window, counts each time. A masked instruction counts whatever its mask.
* A loop with no iterations is not on any path, nor are blocks that lead only to it.
* The compiler may unroll one source loop into several pieces: a loop over 16 iterations at once, straight code for 8,
  and a loop over the rest. The number of iterations in a piece is inferred from the bytes it moves; larger pieces run
  first. If that leaves a running loop outside every path (as with peeled iterations), straight pieces count as other
  code.
* Subroutines reached by a call that returns (denormal operands, say) do not count, nor does unreachable code such as
  padding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations, pairwise

from .listing import EXIT, Block


class UnexplainedLoopsError(ValueError):
    """The loops of a listing could not be matched with those of the source."""


@dataclass(frozen=True)
class Loop:
    """A loop of the source: iterations, bytes that a program moves in each, and the loops inside.

    The bytes show how far the compiler unrolled the loop; 0 where it does not, as with loops inside.
    """

    trips: int
    size: float
    inner: tuple[Loop, ...] = ()


@dataclass(frozen=True)
class Counts:
    """Executed by one thread."""

    instructions: float = 0.0
    vector: float = 0.0
    special: float = 0.0
    bytes: float = 0.0
    accesses: dict[tuple[str, int], float] = field(default_factory=dict)
    """Accesses of global memory, by "load" or "store" and width in bytes."""

    def __add__(self, other: Counts) -> Counts:
        kinds = sorted(self.accesses.keys() | other.accesses.keys())
        return Counts(
            self.instructions + other.instructions,
            self.vector + other.vector,
            self.special + other.special,
            self.bytes + other.bytes,
            {kind: self.accesses.get(kind, 0.0) + other.accesses.get(kind, 0.0) for kind in kinds},
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
    """Counts of one of a program's ``threads``; ``loops`` run in sequence."""
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
    """The blocks of each loop by its head, which dominates a block that jumps back to it."""
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
"""Number of runs of a piece of code and its source loop, by first block; None if it does not run."""


class _Region:
    """A function (``depth`` 0) or the body of a loop; each loop directly inside it is one node.

    A path leads from ``head`` to the end: an exit in a function, back to the head in a loop.
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
            # A path that ends the program does not complete an iteration, unless there is no other.
            ends = {n for n in self.next if any(head in blocks[b].successors for b in body if self.node[b] == n)}
            for n in self.next:
                if n not in ends:
                    self.next[n].discard(EXIT)
        # Early exits of masked threads are ignored, unless there is no other path.
        self.early = {n for n, following in self.next.items() if EXIT in following and len(following) > 1}
        self.once = sum((of_block(blocks[b]) for b in body), Counts())

    def counts(self, sources: Sequence[Loop], threads: int) -> Counts:
        """Counts of one pass; the loops ``sources`` run in sequence."""
        copies = self._copies(sources[0], threads) if self.loops and len(sources) == 1 else {}
        for pieces, whole in ((copies, True), ({}, not copies)):
            runs, left = self._runs(sources, threads, pieces)
            if left and whole:
                continue
            weights = self._weights(runs, threads)
            path = self._heaviest(weights, set()) or self._heaviest(weights, self.early)
            if path and all(n in path for n, run in runs.items() if run and n in self.loops):
                return reduce(Counts.__add__, (weights[n] for n in path), Counts())
        raise UnexplainedLoopsError(f"loops at blocks {sorted(self.loops)} do not match {list(sources)}")

    def _weights(self, runs: _Runs, threads: int) -> dict[int, Counts]:
        """Counts of each node that can be on a path."""
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
        """The path with the most instructions over nodes with a weight; nodes in ``early`` may end it too."""
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
        """The nodes, each after all of its successors."""
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
        """Runs of each loop and of each of ``copies``, and the number of iterations left over."""
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
        """Blocks outside loops that hold whole iterations and can be skipped, with their number of iterations."""
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
    """All ways to split ``items`` into ``number`` consecutive, non-empty groups."""
    for cuts in combinations(range(1, len(items)), number - 1) if number else ():
        edges = [0, *cuts, len(items)]
        yield [items[a:b] for a, b in pairwise(edges)]


def mean(counts: Iterable[Counts]) -> Counts:
    """The average over programs with different trip counts."""
    several = list(counts)
    return sum(several, Counts()).times(1 / len(several))
