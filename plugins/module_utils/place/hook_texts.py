# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The scripts and units by which a host tells kmodctl of kernels, as texts.

What runs them ends with 0 whatever happens: no package fails of them.
"""

MADE_BY = "# Made by outoftree.kmod (kmod_follow), which removes it again. Changes are lost.\n"
KMODCTL = "/usr/local/sbin/kmodctl"
HOOK = "/usr/local/libexec/outoftree-kmod-hook"
CHECK = "outoftree-kmod-check.service"
FORGET = (
    "systemctl",
    "reset-failed",
    "outoftree-kmod*",
)  # else systemd goes on to show a failure that is over
STATE = "/var/lib/outoftree-kmod"

# Under the package manager's lock: nothing here waits for it, and nothing asks it. Python may be gone or half
# replaced in the same transaction.
RUNNER = """#!/bin/sh
%(made_by)s# Tells kmodctl what happened to a kernel: %(hook)s add-kernel|remove-kernel|refresh [OPTION]... [RELEASE]
# It ends with 0 whatever happens, so that no package fails; what was not done is noted and done later. Only "boot" ends as kmodctl does.
export LC_ALL=C PATH="${PATH:-/usr/bin}:/usr/sbin:/usr/bin:/sbin:/bin"
kmodctl=%(kmodctl)s pending=%(pending)s
seconds=1500 early=
for word; do
    [ "$word" = --early ] && early=1 seconds=120
done

say() {
    printf '%%s\\n' "$1" >&2
    printf '%%s\\n' "$1" | logger -t outoftree-kmod -p "daemon.$2" 2> /dev/null
}

note() { # for the unit at boot, and the next play
    umask 022
    [ ! -e "$pending" ] || [ -f "$pending" ] || return
    mkdir -p "${pending%%/*}" && printf '%%s\\n' "$(printf '%%s' "$1" | tr -d '\\000-\\037')" >> "$pending"
}

later() {
    say "outoftree-kmod: $1 ($2). This is done later: at the next boot, by 'kmodctl refresh', or by the next play" err
    note "$1: $2"
}

run() { # 0: all is well; 1: done, and some driver does not fit, which kmodctl has reported
    [ -f "$kmodctl" ] || { later "$*" "there is no $kmodctl"; return 2; }
    for python in %(interpreters)s; do
        "$python" -c 'import sys, json, zlib; sys.exit(sys.version_info < (3, 6))' < /dev/null > /dev/null 2>&1 && break
        python=
    done
    [ "$python" ] || { later "$*" "no Python from 3.6 on can be run"; return 2; }
    said=$(timeout -k 30 "$seconds" "$python" "$kmodctl" "$@" < /dev/null 2>&1)
    status=$?
    level=info
    [ "$status" = 0 ] || level=err
    [ -z "$said" ] || say "$said" "$level"
    case $status in
        0) ;;
        1) # Python says that, too
            "$python" "$kmodctl" --help < /dev/null > /dev/null 2>&1 || later "$*" "kmodctl cannot be run" ;;
        124) later "$*" "it took longer than $seconds seconds" ;;
        137) later "$*" "it was killed, or took longer than $seconds seconds" ;;
        *) later "$*" "kmodctl ended with $status" ;;
    esac
    if [ "$status" = 1 ] && [ "$1" != refresh ] && [ -z "$early" ] && [ -d /run/systemd/system ]; then # its failure is what people look at
        systemctl --no-block restart outoftree-kmod-check.service > /dev/null 2>&1
    fi
    return "$status"
}

if [ "$1" = boot ]; then
    shift
    run refresh --boot "$@"
    exit
fi
[ -z "$early" ] || note "$*: the hook that comes last has not done the rest" # until it has, whatever becomes of the transaction
run "$@"
exit 0
"""

# kernel-install (EL 8 and later, Fedora): early, before dracut makes the image, and late, when image, entry
# and arguments are all there. Of a kernel that leaves our entry goes before what it starts does (20-grub).
INSTALL_LEAVING = """#!/bin/sh
%(made_by)s# Before 20-grub takes the kernel away: no boot entry of ours is to be left with nothing to start, as the default perhaps.
[ "$1" = remove ] && [ -x %(hook)s ] && %(hook)s remove-kernel --early "$2"
exit 0
"""
INSTALL_EARLY = """#!/bin/sh
%(made_by)s# After 40-dkms, before 50-depmod and 50-dracut: links alone, so that the distribution's own image gets the driver.
[ "$1" = add ] && [ -x %(hook)s ] && %(hook)s add-kernel --early "$2"
exit 0
"""
INSTALL_LATE = """#!/bin/sh
%(made_by)s# After all that writes images, boot entries and their arguments.
[ -x %(hook)s ] || exit 0
case $1 in
    add) %(hook)s add-kernel "$2" ;;
    remove) %(hook)s remove-kernel "$2" ;;
esac
exit 0
"""

# Enterprise Linux 6 and 7 (new-kernel-pkg): one slot, after the image was made
POSTINST = """#!/bin/sh
%(made_by)s[ -x %(hook)s ] && %(hook)s add-kernel "$1"
exit 0
"""
PRERM = """#!/bin/sh
%(made_by)s[ -x %(hook)s ] && %(hook)s remove-kernel "$1"
exit 0
"""

# Debian and Ubuntu: dpkg says what it is about in DEB_MAINT_PARAMS; postrm.d is called when a kernel is
# upgraded or installed again, too
_DEBIAN_WORD = """#!/bin/sh
%(made_by)s[ -x %(hook)s ] || exit 0
word=${DEB_MAINT_PARAMS%%%% *}
word=${word#[\\'\\"]} word=${word%%[\\'\\"]}
"""
DEBIAN_EARLY = (
    _DEBIAN_WORD
    + """# After dkms, before dracut and initramfs-tools: links alone, so that their image gets the driver.
case $word in
    '' | configure) %(hook)s add-kernel --early "$1" ;;
esac
exit 0
"""
)
DEBIAN_LATE = (
    _DEBIAN_WORD
    + """# After all that makes images and boot entries.
case $word in
    '' | configure) %(hook)s add-kernel "$1" ;;
esac
exit 0
"""
)
DEBIAN_LEAVING = (
    _DEBIAN_WORD
    + """# Before dpkg takes the kernel away: no boot entry of ours is to be left with nothing to start, as the default perhaps.
case $word in
    remove) %(hook)s remove-kernel --early "$1" ;;
esac
exit 0
"""
)
DEBIAN_REMOVED = (
    _DEBIAN_WORD
    + """case $word in
    remove | purge) %(hook)s remove-kernel "$1" ;;
esac
exit 0
"""
)
DEBIAN_IMAGE = """#!/bin/sh
%(made_by)s# update-initramfs has made the image of a kernel again. While a kernel's package is at work (DEB_MAINT_PARAMS is set) there may be
# no boot entry yet, and the hook after this one does all of it.
[ -z "$DEB_MAINT_PARAMS" ] && [ -x %(hook)s ] && %(hook)s refresh "$1"
exit 0
"""

# systemd
PATH_UNIT = """%(made_by)s
[Unit]
Description=Watch for kernels and initramfs images that are made without telling anyone
Documentation=man:kmodctl(8)

[Path]
PathChanged=/boot
PathChanged=%(modules)s
Unit=outoftree-kmod.service

[Install]
WantedBy=multi-user.target
"""
SERVICE = """%(made_by)s
[Unit]
Description=Give new kernels and images their out-of-tree drivers
Documentation=man:kmodctl(8)
RequiresMountsFor=/boot %(modules)s
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=%(hook)s refresh --settle
TimeoutStartSec=3600
Nice=10
"""
CHECK_UNIT = """%(made_by)s
[Unit]
Description=Out-of-tree drivers of the running kernel
Documentation=man:kmodctl(8)
RequiresMountsFor=/boot %(modules)s
After=local-fs.target systemd-modules-load.service systemd-udev-trigger.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=%(hook)s boot
TimeoutStartSec=1800

[Install]
WantedBy=multi-user.target
"""
SHUTDOWN_UNIT = """%(made_by)s
[Unit]
Description=Last look at kernels and images before the machine goes down
Documentation=man:kmodctl(8)
RequiresMountsFor=/boot %(modules)s
After=local-fs.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=%(hook)s refresh
TimeoutStopSec=900

[Install]
WantedBy=multi-user.target
"""
