"""Transformations as matrices in homogeneous coordinates, one for each image of a batch."""

import torch
from torch import Tensor
from torch.nn import functional as F


def translate2d(x: Tensor, y: Tensor) -> Tensor:
    """``(B, 3, 3)``: moves by ``x``, ``y``."""
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _matrix([[one, zero, x], [zero, one, y], [zero, zero, one]])


def scale2d(x: Tensor, y: Tensor) -> Tensor:
    """``(B, 3, 3)``: stretches by ``x``, ``y`` about the origin."""
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _matrix([[x, zero, zero], [zero, y, zero], [zero, zero, one]])


def rotate2d(angle: Tensor) -> Tensor:
    """``(B, 3, 3)``: turns the x axis towards the y axis, by radians."""
    one, zero, cosine, sine = torch.ones_like(angle), torch.zeros_like(angle), angle.cos(), angle.sin()
    return _matrix([[cosine, -sine, zero], [sine, cosine, zero], [zero, zero, one]])


def translate3d(x: Tensor) -> Tensor:
    """``(B, 4, 4)``: adds ``x`` to all three coordinates."""
    offset = F.pad(x.view(-1, 1, 1).expand(-1, 3, 1), (3, 0, 0, 1))
    return torch.eye(4, dtype=x.dtype, device=x.device) + offset


def scale3d(x: Tensor) -> Tensor:
    """``(B, 4, 4)``: multiplies all three coordinates by ``x``."""
    one = torch.ones_like(x)
    return torch.diag_embed(torch.stack([x, x, x, one], dim=1))


def along_and_across(axis: Tensor, along: Tensor, across: Tensor) -> Tensor:
    """``(B, 4, 4)``: multiplies what lies along the unit vector ``axis`` (3,) by one factor, the rest by another."""
    projection = torch.outer(axis, axis)
    rest = torch.eye(3, dtype=axis.dtype, device=axis.device) - projection
    return _affine(along.view(-1, 1, 1) * projection + across.view(-1, 1, 1) * rest)


def rotate3d(axis: Tensor, angle: Tensor) -> Tensor:
    """``(B, 4, 4)``: turns about the unit vector ``axis`` (3,), by radians (Rodrigues' formula)."""
    cross = torch.linalg.cross(torch.eye(3, dtype=axis.dtype, device=axis.device), axis.expand(3, 3))
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    identity3 = torch.eye(3, dtype=axis.dtype, device=axis.device)
    return _affine(cosine * identity3 + sine * cross + (1 - cosine) * torch.outer(axis, axis))


def _affine(linear: Tensor) -> Tensor:
    result = F.pad(linear, (0, 1, 0, 1))
    corner = torch.zeros(4, 4, dtype=linear.dtype, device=linear.device)
    corner[3, 3] = 1
    return result + corner


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
