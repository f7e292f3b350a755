"""A kernel that does nothing but exponentials: their rate bounds attention with few channels. Needs Triton."""

import triton
import triton.language as tl

BLOCK = 1024
REPEATS = 4096


@triton.jit
def exponentials(out, BLOCK: tl.constexpr, REPEATS: tl.constexpr):
    """x ← 2^(−x), REPEATS times; it tends to 0.64, so that nothing overflows and nothing can be left out."""
    lanes = tl.arange(0, BLOCK)
    x = lanes.to(tl.float32) / BLOCK
    for _ in range(REPEATS):
        x = tl.exp2(-x)
    tl.store(out + tl.program_id(0) * BLOCK + lanes, x)
