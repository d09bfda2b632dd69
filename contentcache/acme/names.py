"""
Whom a certificate is for.
"""

from __future__ import annotations

from typing import Final

from cryptography.x509 import Certificate, DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName

#: So many are told, with so many letters of each.
_MOST: Final = 5
_LONGEST: Final = 80


def names_of(certificate: Certificate) -> list[str]:
    """
    The hosts and addresses that a certificate is for, in small letters.
    """
    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except (ExtensionNotFound, ValueError):
        return []
    hosts = [name.lower() for name in names.get_values_for_type(DNSName)]
    return hosts + [str(address) for address in names.get_values_for_type(IPAddress)]


def is_for(certificate: Certificate, host: str) -> bool:
    """
    Whether clients who call ``host`` would believe it, by a wildcard too (RFC 6125 §6.4.3).
    """
    names = names_of(certificate)
    return host in names or f"*.{host.partition('.')[2]}" in names


def said(names: list[str]) -> str:
    """
    Names for people, not too many, and printable: a server or whoever wrote the file may have chosen them.
    """
    shown = [_printable(name[:_LONGEST]) for name in names[:_MOST]]
    more = [f"{len(names) - _MOST} more"] if len(names) > _MOST else []
    return ", ".join([*shown, *more]) or "no name"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
