"""Tokens for a server that asks for them: an Ed25519 key pair, and JWTs signed with it."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@dataclass(frozen=True)
class Key:
    """A key pair; the server is given its public half, as PEM text."""

    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public_pem(self) -> str:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def token(
    *,
    key: Key,
    expires_in: float | None = 3600.0,
    access: Literal["rw", "ro"] | None = "rw",
    namespace: str | None = None,
) -> str:
    """A token valid for `seconds` (None: without end; negative: expired), and for one namespace or all."""
    expires_at = None if expires_in is None else int(time.time() + expires_in)
    claims = {"a": access, "id": namespace, "exp": expires_at}
    return signed({name: value for name, value in claims.items() if value is not None}, key=key)


def signed(claims: dict[str, object], *, key: Key) -> str:
    """A token with these claims, whatever they are."""
    pieces = [_piece(json.dumps(part).encode()) for part in ({"alg": "EdDSA", "typ": "JWT"}, claims)]
    return ".".join([*pieces, _piece(key.private.sign(".".join(pieces).encode()))])


def _piece(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
