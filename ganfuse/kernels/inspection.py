"""Compiling kernels for GPUs that are not there, and reading what came out.

Triton needs no GPU to compile, and its wheel carries the disassemblers. The launchers run on meta tensors with
launches recorded instead of started; types, specialisations and divisibilities of their real arguments are what the
compiler gets, so that what is inspected is what would run.
"""

import functools
import importlib
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganfuse.kernels import occupancy
from ganfuse.kernels.launch import Launch, record_launches


@dataclass(frozen=True)
class Target:
    """A chip to compile for: Triton's name for it and the shared memory one program may have, in bytes."""

    backend: str
    arch: int | str
    warp_size: int
    shared_limit: int


_KIB = 1024
TARGETS = {
    "sm80": Target("cuda", 80, 32, 163 * _KIB),
    "sm89": Target("cuda", 89, 32, 99 * _KIB),
    "sm90": Target("cuda", 90, 32, 227 * _KIB),
    "sm100": Target("cuda", 100, 32, 227 * _KIB),
    "sm120": Target("cuda", 120, 32, 99 * _KIB),
    "gfx942": Target("hip", "gfx942", 64, 64 * _KIB),
}

# What tells apart the forms of one kernel.
_FLAGS = ("QUERY", "KEY", "VALUE", "OUTPUT", "WIDE", "CAUSAL")

# Kernel folders that can be inspected: each has a module `cases` with CASES and run(case).
OPS = (
    "feature_attention",
    "channel_norm",
    "bias_act",
    "minibatch_stddev",
    "pixel_norm",
    "spectral_normalize",
    "upfirdn2d",
    "scaled_bias_act",
    "modulated_conv2d",
)


@dataclass
class Report:
    """What one compiled kernel is like.

    Attributes:
        registers: per thread. spills: bytes of stack and local memory per thread (AMD: spilled vector registers).
        shared: bytes per program. tensor_memory: columns (sm_100 only).
        matrix_instruction: the tensor-core instruction found, or "".
        loads, stores: how many global accesses there are of each width in bits.
        alignment: bits to which every address of the case is aligned, up to 128: what loads can be wide.
        expects_matrix_instruction: whether the kernel multiplies matrices.
        writes_sums_only: a reduction, whose few stores may be of any width.
        reads_unaligned_rows: the kernel also has a branch for rows that are not aligned, which reads one by one.
        error: the compiler's message where there is no kernel.
    """

    op: str
    case: str
    target: str
    kernel: str
    flags: str = ""
    config: str = ""
    num_warps: int = 0
    registers: int = 0
    spills: int = 0
    shared: int = 0
    shared_limit: int = 0
    tensor_memory: int = 0
    matrix_instruction: str = ""
    loads: dict[int, int] = field(default_factory=dict)
    stores: dict[int, int] = field(default_factory=dict)
    alignment: int = 128
    expects_matrix_instruction: bool = True
    writes_sums_only: bool = False
    reads_unaligned_rows: bool = False
    error: str = ""

    @property
    def widest_load(self) -> int:
        return max(self.loads, default=0)

    @property
    def widest_store(self) -> int:
        return max(self.stores, default=0)

    @property
    def occupancy(self) -> float:
        """Warps resident on a multiprocessor as a share of the most that it holds, estimated from what one takes."""
        if self.error:
            return 0.0
        return occupancy.occupancy(
            self.target,
            registers=self.registers,
            shared=self.shared,
            num_warps=self.num_warps,
            tensor_memory=self.tensor_memory,
        )


def op_cases(op: str) -> list[str]:
    """Names of the shapes at which an op is inspected."""
    return list(_cases(op).CASES)


def _cases(op: str) -> Any:
    return importlib.import_module(f"ganfuse.kernels.{op}.cases")


def recorded(op: str, case: str, target: str) -> list[Launch]:
    """The launches of forward, backward and double backward of `op` at `case`, as `target` would get them."""
    module = _cases(op)
    with record_launches(target) as launches:
        module.run(module.CASES[case])
    return launches


def inspect_case(op: str, case: str, target: str) -> list[Report]:
    """Compile every kernel of a case for `target`, in this process. Triton must not be in interpreter mode."""
    module = _cases(op)
    reports = [compile_launch(launch, op, case, target) for launch in recorded(op, case, target)]
    for report in reports:
        report.alignment = module.alignment(module.CASES[case])
        # An op may say that it has no products, which kernels are reductions, and which touch so little memory that
        # the width of accesses does not matter.
        report.expects_matrix_instruction = getattr(module, "TENSOR_CORES", True)
        report.writes_sums_only = report.kernel in getattr(module, "REDUCTIONS", ())
        report.reads_unaligned_rows = getattr(module, "unaligned_rows", _never)(module.CASES[case])
        if report.kernel in getattr(module, "SMALL_KERNELS", ()):
            report.alignment = min(32, *report.loads, *report.stores)
    return reports


def _never(case: Any) -> bool:
    return False


def compile_launch(launch: Launch, op: str, case: str, target: str) -> Report:
    """Compile one recorded launch and read the result."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    chip = TARGETS[target]
    report = Report(op, case, target, launch.kernel.fn.__name__, num_warps=launch.num_warps)
    report.shared_limit = chip.shared_limit
    blocks = {k: v for k, v in launch.constants.items() if k.startswith("BLOCK_")}
    report.config = "×".join(map(str, blocks.values())) + f" w{launch.num_warps} s{launch.num_stages}"
    report.flags = " ".join(k.lower() for k in _FLAGS if launch.constants.get(k) is True)
    gpu = GPUTarget(chip.backend, chip.arch, chip.warp_size)
    backend = make_backend(gpu)
    options: dict[str, Any] = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    bind = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
    bound, specialization, extra = bind(*launch.args, **launch.constants, **options)
    _, signature, constants, attributes = launch.kernel._pack_args(backend, extra, bound, specialization, options)
    try:
        compiled = triton.compile(ASTSource(launch.kernel, signature, constants, attributes), gpu, options)
    except Exception as error:
        report.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return report
    report.shared = compiled.metadata.shared
    report.tensor_memory = getattr(compiled.metadata, "tmem_size", None) or 0
    if chip.backend == "cuda":
        _read_cubin(compiled.asm["cubin"], report)
    else:
        _read_amdgcn(compiled.asm["amdgcn"], report)
    return report


@functools.cache
def _tool(name: str) -> str:
    import triton.backends.nvidia

    path = Path(triton.backends.nvidia.__file__).parent / "bin" / name
    return str(path) if path.exists() else name


def _read_cubin(cubin: bytes, report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        Path(path).write_bytes(cubin)
        usage = subprocess.run(
            [_tool("cuobjdump"), "--dump-resource-usage", path], capture_output=True, text=True, check=True
        ).stdout
        sass = subprocess.run([_tool("nvdisasm"), "-c", path], capture_output=True, text=True, check=True).stdout
    numbers = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    report.registers = numbers.get("REG", 0)
    report.spills = max(numbers.get("STACK", 0), numbers.get("LOCAL", 0))
    if report.spills == 0 and re.search(r"\b(STL|LDL)\b", sass):
        report.spills = 1
    found = re.findall(r"\b(UTC[A-Z]*MMA|HGMMA|HMMA|IMMA|DMMA)", sass)
    report.matrix_instruction = Counter(found).most_common(1)[0][0] if found else ""
    for name, widths in (("LDG|LDGSTS", report.loads), ("STG", report.stores)):
        for modifiers in re.findall(rf"\b(?:{name})\.([A-Z0-9_.]+)", sass):
            width = re.search(r"\b(256|128|64)\b", modifiers.replace(".", " "))
            narrow = re.search(r"\b[US](8|16)\b", modifiers.replace(".", " "))
            bits = int(width.group(1)) if width else int(narrow.group(1)) if narrow else 32
            widths[bits] = widths.get(bits, 0) + 1


def _read_amdgcn(asm: str, report: Report) -> None:
    def number(key: str) -> int:
        match = re.search(rf"\.{key}:\s*(\d+)", asm)
        return int(match.group(1)) if match else 0

    report.registers = number("vgpr_count")
    report.spills = number("vgpr_spill_count")
    report.matrix_instruction = "MFMA" if "v_mfma" in asm else ""
    bits = {"ubyte": 8, "ushort": 16, "short": 16, "dword": 32, "dwordx2": 64, "dwordx3": 96, "dwordx4": 128}
    for kind, widths in (("load", report.loads), ("store", report.stores)):
        for suffix in re.findall(rf"\b(?:global|buffer)_{kind}_(\w+)", asm):
            width = bits.get(suffix.split("_")[0], 32)
            widths[width] = widths.get(width, 0) + 1


def problems(report: Report) -> list[str]:
    """What is wrong with a kernel built for half types; nothing, as shipped."""
    if report.error:
        return [report.error]
    found = []
    if report.spills:
        found.append(f"spills {report.spills}")
    if report.shared > report.shared_limit:
        found.append(f"shared memory {report.shared} over {report.shared_limit}")
    if report.tensor_memory > 512:
        found.append(f"tensor memory {report.tensor_memory} over 512 columns")
    if report.expects_matrix_instruction and not report.matrix_instruction:
        found.append("no tensor-core instruction")
    if not report.reads_unaligned_rows and (report.loads.get(16) or report.loads.get(8)):
        found.append("scalar loads of half types")
    if report.loads and report.widest_load < report.alignment:
        found.append(f"widest load {report.widest_load} bits")
    # Two 64-bit stores are as good as one of 128 there.
    widest = min(report.alignment, 64 if report.target == "gfx942" else 128)
    if report.stores and not report.writes_sums_only and report.widest_store < widest:
        found.append(f"widest store {report.widest_store} bits")
    return found


def inspect_all(ops: Sequence[str] = OPS, targets: Sequence[str] = tuple(TARGETS)) -> list[tuple[str, str, str]]:
    """The (op, case, target) triples that a full inspection covers."""
    return [(op, case, target) for op in ops for case in op_cases(op) for target in targets]
