# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ECDSA signatures on the curves that kernels sign their modules with; public values alone, so nothing here has to keep a secret."""
from typing import NamedTuple, Optional, Tuple


class Curve(NamedTuple):
    """y^2 = x^3 - 3x + b over a prime field (FIPS 186-4, D.1.2)."""

    prime: int
    b: int
    order: int
    x: int
    y: int


class Point(NamedTuple):
    curve: Curve
    x: int
    y: int


Jacobian = Tuple[int, int, int]  # x = X / Z^2, y = Y / Z^3; Z = 0 is the neutral element

P256 = Curve(
    2**256 - 2**224 + 2**192 + 2**96 - 1,
    0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b,
    0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551,
    0x6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296,
    0x4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5)
P384 = Curve(
    2**384 - 2**128 - 2**96 + 2**32 - 1,
    0xb3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef,
    0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973,
    0xaa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7,
    0x3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f)
_CURVES = {"1.2.840.10045.3.1.7": P256, "1.3.132.0.34": P384}


def point(curve: str, data: bytes) -> Optional[Point]:
    """A public key: an uncompressed point on the curve of that object identifier. None for another curve or form."""
    known = _CURVES.get(curve)
    if known is None or data[:1] != b"\4" or len(data) != 1 + 2 * ((known.prime.bit_length() + 7) // 8):
        return None
    half = len(data) // 2
    x, y = int.from_bytes(data[1:1 + half], "big"), int.from_bytes(data[1 + half:], "big")
    return Point(known, x, y) if (y * y - x**3 + 3 * x - known.b) % known.prime == 0 else None


def verify(key: Point, digest: bytes, r: int, s: int) -> bool:
    """Whether (r, s) is the key's signature of the digest (FIPS 186-4, 6.4)."""
    curve = key.curve
    if not (0 < r < curve.order and 0 < s < curve.order):
        return False
    e = int.from_bytes(digest, "big") >> max(0, 8 * len(digest) - curve.order.bit_length())
    inverse = pow(s, curve.order - 2, curve.order)
    x, _unused, z = _sum_of_products(curve, e * inverse % curve.order, (curve.x, curve.y, 1), r * inverse % curve.order, (key.x, key.y, 1))
    return z != 0 and x * pow(z, curve.prime - 3, curve.prime) % curve.prime % curve.order == r  # 1 / z^2


def _sum_of_products(curve: Curve, m: int, one: Jacobian, n: int, other: Jacobian) -> Jacobian:
    """m times one plus n times other, both in one pass over their bits."""
    both = _add(curve, one, other)
    total = (1, 1, 0)
    for bit in range(max(m.bit_length(), n.bit_length()) - 1, -1, -1):
        total = _double(curve, total)
        chosen = (m >> bit & 1) + 2 * (n >> bit & 1)
        if chosen:
            total = _add(curve, total, (one, other, both)[chosen - 1])
    return total


def _double(curve: Curve, point: Jacobian) -> Jacobian:
    p, (x, y, z) = curve.prime, point
    square = y * y % p
    s = 4 * x * square % p
    m = 3 * (x - z * z) * (x + z * z) % p
    x2 = (m * m - 2 * s) % p
    return x2, (m * (s - x2) - 8 * square * square) % p, 2 * y * z % p


def _add(curve: Curve, one: Jacobian, other: Jacobian) -> Jacobian:
    p, (x1, y1, z1), (x2, y2, z2) = curve.prime, one, other
    if z1 == 0 or z2 == 0:
        return other if z1 == 0 else one
    u1, u2 = x1 * z2 * z2 % p, x2 * z1 * z1 % p
    s1, s2 = y1 * z2**3 % p, y2 * z1**3 % p
    if u1 == u2:
        return _double(curve, one) if s1 == s2 else (1, 1, 0)
    h, r = u2 - u1, s2 - s1
    x = (r * r - h**3 - 2 * u1 * h * h) % p
    return x, (r * (u1 * h * h - x) - s1 * h**3) % p, h * z1 * z2 % p
