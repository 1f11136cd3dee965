# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manual page of kmodctl, which comes with it to hosts that follow new kernels. tests/unit/test_manual.py
holds it against the commands.
"""

MANUAL_PAGE = r""".TH KMODCTL 8 "" outoftree.kmod "System administration"
.SH NAME
kmodctl \- out-of-tree kernel drivers and the kernels of a machine
.SH SYNOPSIS
.B kmodctl
.I COMMAND
.RB [ \-\-root
.IR DIR ]
.RB [ \-\-json ]
.RI [ OPTION ]...
.SH DESCRIPTION
.B kmodctl
gives the drivers that Ansible has deployed on this machine to each kernel that takes them, and shows what there is of them.
It came with the role
.BR outoftree.kmod.deploy ,
because this machine is to give kernels that are installed later their drivers by itself (kmod_follow).
It says of every kernel that takes none of a driver's builds why it does not.
.SH COMMANDS
.TP
.BI status " " \fR[\fIDRIVER\fR]...
Show the drivers, what each kernel and its images have of them, and what could not be done.
.TP
.BI add\-kernel " " \fR[\fB\-\-early\fR]\ [\fIRELEASE\fR]
Give every driver to a kernel: links, initramfs variant, boot entry. With
.B \-\-early
links alone, so that the distribution's own initramfs gets the driver.
.TP
.BI remove\-kernel " " \fR[\fB\-\-early\fR]\ [\fIRELEASE\fR]
Remove the boot entries, variants and links of a kernel that leaves. With
.B \-\-early
the boot entries alone, before the kernel that they start is taken away.
.TP
.BI refresh " " \fR[\fB\-\-settle\fR]\ [\fB\-\-boot\fR]\ [\fIRELEASE\fR]
Judge again, and bring everything up to date. What was pending is done. With
.B \-\-settle
wait until no package manager is at work and no image is written. With
.B \-\-boot
see how a trial went, and end with 1 if a kernel that boots start lacks a driver.
.TP
.BI check " FILE\fR..."
Say which installed kernels would load modules, and why not.
.TP
.BI link ", " variant ", " entry
What the modules kmod_link, initrd_variant and grub_entry do.
.PP
Every command has
.BR \-\-help ,
and those that change something
.BR \-\-check .
.SH EXIT STATUS
0 if all is well; 1 if a kernel takes none of a driver's builds; 2 if something could not be done.
Scripts that packages run always end with 0: see FILES.
.SH FILES
.TP
.I /etc/outoftree\-kmod/follow.json
How each driver is given to kernels. Written by Ansible.
.TP
.I /usr/local/libexec/outoftree\-kmod\-hook
What the scripts in /etc/kernel and the units call. It ends with 0 whatever happens, and notes what it could not do.
.TP
.I /var/lib/outoftree\-kmod/pending
What could not be done, a line each. It is done at the next boot, by
.BR "kmodctl refresh" ,
or by the next play.
.TP
.I /etc/ansible/facts.d/outoftree_kmod.fact
Which kernels take no build of which driver, and why.
.SH UNITS
.TP
.I outoftree\-kmod.path
Starts
.I outoftree\-kmod.service
when a kernel or an image has changed without anyone telling.
.TP
.I outoftree\-kmod\-check.service
Looks at each boot; it fails if a kernel that boots start lacks a driver.
.TP
.I outoftree\-kmod\-shutdown.service
A last look before the machine goes down.
.SH SEE ALSO
.BR depmod (8),
.BR kernel\-install (8),
.BR journalctl (1):
.B journalctl \-t outoftree\-kmod
"""
