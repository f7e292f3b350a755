"""What an op must move and compute at the least: the floor that a roofline share is a share of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Least memory traffic and arithmetic of one call.

    Attributes:
        bytes: read and written through device memory, each input and output once.
        flops: floating-point operations on the tensor cores (a multiply-add is two).
        exps: exponentials, which GPUs compute at a fraction of the rate of multiply-adds.
    """

    bytes: int
    flops: int
    exps: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops, self.exps + other.exps)

    @property
    def intensity(self) -> float:
        """FLOP per byte; above the ridge of a device the op is bound by arithmetic."""
        return self.flops / self.bytes if self.bytes else 0.0

    def floor_seconds(self, bandwidth: float, flop_rate: float, exp_rate: float | None = None) -> float:
        """The time below which no implementation can run, in seconds.

        Args:
            bandwidth: bytes/s. flop_rate: FLOP/s. exp_rate: exponentials/s; None leaves that term out.
        """
        terms = [self.bytes / bandwidth, self.flops / flop_rate]
        if exp_rate is not None:
            terms.append(self.exps / exp_rate)
        return max(terms)
