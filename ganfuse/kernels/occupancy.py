"""How many programs of a compiled kernel fit on one multiprocessor at a time: an estimate from what it takes.

Limits of NVIDIA chips: "Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide. Limits of
CDNA 3: the AMD Instinct MI300 ISA reference guide, sections on registers, LDS and waves.
"""

from dataclasses import dataclass

__all__ = ["MULTIPROCESSORS", "Multiprocessor", "occupancy"]

_KIB = 1024


@dataclass(frozen=True)
class Multiprocessor:
    """What the programs on one multiprocessor share.

    Attributes:
        warps: resident at most (waves on AMD), of `warp_size` threads. programs: resident at most.
        schedulers: among which the warps are divided; each has its part of the registers.
        registers: per scheduler and thread of a warp. granule: of registers per thread.
        shared: bytes. reserved: of them, for each program. shared_granule: bytes.
        tensor_memory: columns; 0 where there is none.
    """

    warps: int
    programs: int
    registers: int
    granule: int
    shared: int
    reserved: int
    shared_granule: int
    warp_size: int = 32
    schedulers: int = 4
    tensor_memory: int = 0


MULTIPROCESSORS = {
    "sm80": Multiprocessor(64, 32, 512, 8, 164 * _KIB, _KIB, 128),
    "sm89": Multiprocessor(48, 24, 512, 8, 100 * _KIB, _KIB, 128),
    "sm90": Multiprocessor(64, 32, 512, 8, 228 * _KIB, _KIB, 128),
    "sm100": Multiprocessor(64, 32, 512, 8, 228 * _KIB, _KIB, 128, tensor_memory=512),
    "sm120": Multiprocessor(48, 24, 512, 8, 100 * _KIB, _KIB, 128),
    "gfx942": Multiprocessor(32, 16, 512, 8, 64 * _KIB, 0, 512, warp_size=64),
}
"""By the names of `inspection.TARGETS`."""


def occupancy(target: str, *, registers: int, shared: int, num_warps: int, tensor_memory: int = 0) -> float:
    """Resident warps as a share of the most that the multiprocessor holds; 0 where not even one program fits.

    Args:
        target: of `MULTIPROCESSORS`.
        registers: per thread. shared: bytes per program. num_warps: per program. tensor_memory: columns per program.
    """
    chip = MULTIPROCESSORS[target]
    taken = -(-max(registers, 1) // chip.granule) * chip.granule
    by_registers = chip.registers // taken * chip.schedulers // num_warps
    bytes_taken = -(-(shared + chip.reserved) // chip.shared_granule) * chip.shared_granule
    programs = min(chip.warps // num_warps, chip.programs, by_registers)
    if bytes_taken:
        programs = min(programs, chip.shared // bytes_taken)
    if tensor_memory and chip.tensor_memory:
        programs = min(programs, chip.tensor_memory // tensor_memory)
    return programs * num_warps / chip.warps
