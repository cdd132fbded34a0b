"""Assembly listings as basic blocks: SASS as printed by cuobjdump, amdgcn as printed by LLVM."""

from __future__ import annotations

import re
from dataclasses import dataclass

EXIT = -1
"""Successor of a block that can end the program."""


@dataclass(frozen=True)
class Instruction:
    """What counting needs to know of a machine instruction.

    Args:
        name: the mnemonic with its suffixes.
        flow: "jump", "exit", "return", or "" where the next instruction follows.
        conditional: whether the jump or exit depends on a predicate.
        target: label of a jump.
        labels: labels of this instruction.
        access: "load" or "store" of global memory, or "".
        width: bytes per thread.
        special: whether it runs on the special-function unit.
        vector: whether it takes an issue slot of the vector unit; on NVIDIA all do.
    """

    name: str
    flow: str = ""
    conditional: bool = False
    target: str = ""
    labels: tuple[str, ...] = ()
    access: str = ""
    width: int = 0
    special: bool = False
    vector: bool = True


@dataclass(frozen=True)
class Block:
    """Consecutive instructions, and the blocks that can follow."""

    instructions: tuple[Instruction, ...]
    successors: tuple[int, ...]


def parse(listing: str) -> list[Block]:
    """Basic blocks of the only function in ``listing``, in order."""
    return blocks(_amdgcn(listing) if ".amdgcn_target" in listing else _sass(listing))


_SASS = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z]\w*(?:\.\w+)*)\s*([^;]*);", re.MULTILINE)
_SASS_WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_SASS_ACCESSES = {"LDG": "load", "LDGSTS": "load", "STG": "store", "RED": "store", "REDG": "store", "ATOMG": "store"}


def _sass(listing: str) -> list[Instruction]:
    lines = [match.groups() for match in _SASS.finditer(listing)]
    returns = any(name.startswith("RET") for _, _, name, _ in lines)
    instructions = []
    for address, guard, name, operands in lines:
        base, *suffixes = name.split(".")
        target = operands.split(",")[-1].strip()
        flow, access = "", _SASS_ACCESSES.get(base, "")
        if base in ("BRX", "JMX", "JMP", "BRXU"):
            raise ValueError(f"cannot follow {name} {operands}")
        # Without a RET in the listing, a call is a jump that is too far for BRA. With one, it leads to a library's slow
        # path (denormals, say), which is not followed.
        if base == "BRA" or (base == "CALL" and not returns):
            flow = "jump"
        elif base in ("EXIT", "RET"):
            flow = "exit" if base == "EXIT" else "return"
        width = next((_SASS_WIDTHS[s] for s in suffixes if s in _SASS_WIDTHS), 4) if access else 0
        instructions.append(
            Instruction(
                name,
                flow,
                conditional=bool(guard) or (flow == "jump" and "," in operands),
                target=target if flow == "jump" else "",
                labels=(f"0x{int(address, 16):x}",),
                access=access,
                width=width,
                special=base == "MUFU",
            )
        )
    return instructions


_AMD_ACCESS = re.compile(r"(?:global|buffer|flat)_(load|store|atomic)_(?:lds_)?(dwordx[234]|dword|[us]?short|[a-z]+)")
_AMD_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "ushort": 2, "sshort": 2, "short": 2}
_AMD_SPECIAL = re.compile(r"v_(?:exp|log|rcp|rsq|sqrt|sin|cos)(?:_iflag)?_(?:f|legacy)")


def _amdgcn(listing: str) -> list[Instruction]:
    instructions: list[Instruction] = []
    labels: list[str] = []
    body = listing.split(".Lfunc_begin0:")[1].split(".Lfunc_end0:")[0]
    for line in body.splitlines():
        text = line.split(";")[0].strip()
        if text.endswith(":"):
            labels.append(text[:-1])
        elif text and not text.startswith("."):
            name, _, operands = text.partition(" ")
            if name in ("s_setpc_b64", "s_swappc_b64"):
                raise ValueError(f"cannot follow {text}")
            jump = name == "s_branch" or name.startswith("s_cbranch")
            found = _AMD_ACCESS.match(name)
            access = ("load" if found[1] == "load" else "store") if found else ""
            instructions.append(
                Instruction(
                    name,
                    "jump" if jump else "exit" if name == "s_endpgm" else "",
                    conditional=name.startswith("s_cbranch"),
                    target=operands.strip() if jump else "",
                    labels=tuple(labels),
                    access=access,
                    width=_AMD_WIDTHS.get(found[2], 1) if found else 0,
                    special=bool(_AMD_SPECIAL.match(name)),
                    vector=name.startswith("v_"),
                )
            )
            labels.clear()
    return instructions


def blocks(instructions: list[Instruction]) -> list[Block]:
    """Split at the target of every jump and after every instruction that can branch."""
    targets = {i.target for i in instructions if i.flow == "jump"}
    starts = [
        n
        for n, i in enumerate(instructions)
        if n == 0 or instructions[n - 1].flow or any(label in targets for label in i.labels)
    ]
    number = {label: b for b, n in enumerate(starts) for label in instructions[n].labels}
    result = []
    for b, start in enumerate(starts):
        body = tuple(instructions[start : starts[b + 1] if b + 1 < len(starts) else None])
        last = body[-1]
        following = [b + 1] if (not last.flow or last.conditional) and b + 1 < len(starts) else []
        if last.flow == "jump":
            following.append(number[last.target])
        elif last.flow:
            following.append(EXIT)
        result.append(Block(body, tuple(dict.fromkeys(following))))
    return result
