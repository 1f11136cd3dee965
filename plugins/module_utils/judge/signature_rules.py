# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the loader asks of a module's signature (``kernel/module/signing.c``)."""

from typing import Iterable, Iterator, Optional

from ..read import signature as signatures
from ..read.kernel_module import KernelModule
from ..read.signature import PKCS7, X509, Certificate, Signature
from .policy import Loader
from .verdict import DOUBT, NOTE, REFUSE, TAINT, Finding

# Whose kernels verify with .platform, too ("KEYS: Make use of platform keyring for module signature verify");
# Arch's are upstream's.
PLATFORM_TRUSTED = ("amazon", "debian", "fedora", "rhel", "ubuntu")


def module_sig_check(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/signing.c: module_sig_check.

    Foreign keys are forgiven unless signatures are required, and so are absent signatures and unknown
    algorithms but for older kernels; a bad signature never is.
    """
    enabled = loader.option("MODULE_SIG")
    if enabled is False or (enabled is None and loader.traits.signature is None):
        return
    signature = module.signature
    if signature is None:
        yield _forgiven(loader, "SIG_ABSENT", "the module is not signed", reason="unsigned module")
    elif signature.fault == "SIG_MALFORMED":
        yield Finding("SIG_MALFORMED", REFUSE, "its signature cannot be read", errno="EBADMSG")
    elif signature.fault == "SIG_BAD":
        yield Finding(
            "SIG_BAD", REFUSE, "its signature is not of the kind that modules have", errno="EKEYREJECTED"
        )
    elif signature.fault == "SIG_UNSUPPORTED" or signature.id_type != (
        PKCS7 if loader.version >= (4, 3) else X509
    ):
        yield _unsupported(loader)
    else:
        yield from _key(module, loader, signature)


def _unsupported(loader: Loader) -> Finding:
    message = "its signature is of a kind that the kernel does not know"
    if loader.has("forgiving of signatures"):
        return _forgiven(loader, "SIG_UNSUPPORTED", message, reason="module with unsupported crypto")
    return Finding("SIG_UNSUPPORTED", REFUSE, message, errno="ENOPKG")


def _key(module: KernelModule, loader: Loader, signature: Signature) -> Iterator[Finding]:
    if loader.option("SYSTEM_REVOCATION_LIST") and _certificate(signature, loader.runtime.revoked):
        yield Finding(
            "SIG_REVOKED",
            REFUSE,
            "signed with a key that the firmware revokes (%s)" % _signer(signature),
            errno="EKEYREJECTED",
        )
        return
    trusted = key_known(loader, signature)
    if trusted:
        yield from _signed(module, loader, signature)
        return
    finding = _forgiven(
        loader,
        "SIG_UNKNOWN_KEY",
        "signed with a key that this kernel %s (%s)"
        % ("does not have" if trusted is False else "may not have", _signer(signature)),
        reason="module with unavailable key",
    )
    ways = list(_enrolment(loader, signature))
    if finding.effect == REFUSE:  # told with the reason, wherever that is shown alone
        message = "; ".join([finding.message, *(each.message for each in ways)])
        finding = finding._replace(message=message)
        if trusted is None:
            finding = finding._replace(effect=DOUBT, errno=None)
    yield finding
    yield from ways


def _enrolment(loader: Loader, signature: Signature) -> Iterator[Finding]:
    """How the kernel gets to know the key, where it takes what the machine's owner enrols by shim (MOK)."""
    if not loader.runtime.mok or _enrolled_known(loader, signature) is False:
        return
    if _certificate(signature, loader.runtime.enrolling):
        yield Finding(
            "SIG_ENROLMENT_WAITS",
            NOTE,
            "the key (%s) is about to be enrolled: confirm it at the console when the machine boots (MokManager)"
            % _signer(signature),
        )
    elif not _certificate(signature, loader.runtime.enrolled):
        yield Finding(
            "SIG_NOT_ENROLLED",
            NOTE,
            "the key (%s) is not enrolled on this machine: mokutil --import CERTIFICATE.der, and confirm it at the "
            "console when it boots" % _signer(signature),
        )


def _signed(module: KernelModule, loader: Loader, signature: Signature) -> Iterator[Finding]:
    """By a key that the kernel has."""
    certificate = _certificate(signature, loader.runtime.enrolled) or _certificate(
        signature, loader.trust().certificates
    )
    good = signatures.verify(signature, certificate) if certificate else None
    if good is False:
        yield Finding(
            "SIG_BAD",
            REFUSE,
            "its signature is wrong: the file was changed after it was signed (%s)" % _signer(signature),
            errno="EKEYREJECTED",
        )
        return
    if good is None:
        yield Finding(
            "SIG_UNVERIFIED",
            NOTE,
            "signed with a key of this kernel (%s); not verified, as %s is not available"
            % (_signer(signature), "the certificate" if certificate is None else "a suitable libcrypto"),
        )
    if module.sha256 in loader.runtime.rejected:
        message, checks = (
            "its digest is on the firmware's list of what not to run",
            loader.trust().checks_digests,
        )
        if checks:
            yield Finding(
                "SIG_HASH_REJECTED",
                REFUSE,
                message,
                found=module.sha256,
                errno="EKEYREJECTED",
                dmesg="Module hash %s is blacklisted" % module.sha256,
            )
        elif checks is None:
            yield Finding(
                "SIG_HASH_REJECTED",
                DOUBT,
                message + ", and whether this kernel looks there cannot be told",
                found=module.sha256,
            )


def _certificate(signature: Signature, among: Iterable[Certificate]) -> Optional[Certificate]:
    return next((each for each in among if signatures.made_by(signature, each)), None)


def key_known(loader: Loader, signature: Signature) -> Optional[bool]:
    """Whether the kernel has the signer's key; None where its keys are not available."""
    own = loader.traits.signature
    if own is not None and (own.issuer, own.serial, own.key_id) == (
        signature.issuer,
        signature.serial,
        signature.key_id,
    ):
        return True
    if _certificate(signature, loader.runtime.enrolled):
        return (
            True
            if _certificate(signature, loader.trust().certificates)
            else _enrolled_known(loader, signature)
        )
    if loader.runtime.keys is None:
        return None
    if any(
        each and key.endswith(each)
        for key in loader.runtime.keys
        for each in (signature.key_id, signature.serial)
    ):
        return True
    # described by subject and key identifier
    return None if any(key.startswith(signature.signer + ": ") for key in loader.runtime.keys) else False


def _enrolled_known(loader: Loader, signature: Signature) -> Optional[bool]:
    """security/integrity/platform_certs/load_uefi.c: what the firmware has is on .platform, which a module's
    signature is not verified with upstream. So is what the machine's owner enrolled (MOK), unless shim may
    have it on .machine, which is linked to those that are.
    """
    machine = False if loader.version < (5, 18) else loader.option("INTEGRITY_MACHINE_KEYRING")
    if machine and loader.runtime.mok_trusted and not _certificate(signature, loader.runtime.firmware):
        if not loader.option("INTEGRITY_CA_MACHINE_KEYRING"):
            return loader.option("SECONDARY_TRUSTED_KEYRING")
        machine = None  # certificate authorities alone
    if loader.family in PLATFORM_TRUSTED:
        return loader.version < (5, 0) or loader.option("INTEGRITY_PLATFORM_KEYRING") is not False
    return False if loader.family == "arch" and machine is not None else None


def _forgiven(loader: Loader, code: str, message: str, *, reason: str) -> Finding:
    """Fatal only where signatures are required: module.sig_enforce or CONFIG_MODULE_SIG_FORCE; lockdown comes
    behind it.
    """
    if loader.runtime.sig_enforce or loader.option("MODULE_SIG_FORCE"):
        code = "SIG_REQUIRED" if code == "SIG_ABSENT" else code
        message += ", and this kernel requires signatures"
        if loader.has("forgiving of signatures"):
            return Finding(
                code, REFUSE, message, errno="EKEYREJECTED", dmesg="Loading of %s is rejected" % reason
            )
        return Finding(code, REFUSE, message, errno="ENOKEY")
    if (
        loader.runtime.lockdown
        or loader.option("LOCK_DOWN_KERNEL_FORCE_INTEGRITY")
        or loader.option("LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY")
    ):
        return Finding(
            "SIG_LOCKDOWN",
            REFUSE,
            message + ", and the kernel is locked down",
            errno="EPERM",
            dmesg="Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7",
        )
    return Finding(code, TAINT, message + ", which taints the kernel")


def _signer(signature: Signature) -> str:
    return signature.signer or "key " + (signature.key_id or signature.serial)
