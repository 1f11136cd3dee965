# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all modules of this collection document in the same words."""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  root:
    description:
      - Root directory of the machine to work on. Another directory than V(/) is a machine that is not
        running,
        such as an image being built or a mounted disk. Symlinks are resolved inside it.
      - A host that has the variable C(kmod_root) is that machine, unless this option says otherwise.
    type: path
    default: /
attributes:
  platform:
    description: Target operating systems that the module works on.
    platforms: linux
    support: full
  action:
    description: Has a part that runs on the controller.
    support: full
  async:
    description: Supports being run with C(async).
    support: full
"""

    SUPPLY = r"""
options:
  checksums:
    description:
      - A list of SHA-256 checksums on the controller, as C(sha256sum) writes it (often C(SHA256SUMS)). Every
        file of O(src) that is read, a module or
        a package, has to be in it and to match, or nothing is sent anywhere.
      - The checksums are those of the files as they were shipped, compressed or not. Names in the list are
        relative to its own directory.
    type: path
  signature:
    description:
      - A detached signature of O(checksums), on the controller. It is checked before the list is believed.
      - What it looks like says which tool of the controller checks it, V(gpg), V(ssh-keygen) (in the
        namespace C(file)) or V(minisign).
      - Required with O(keyring), and requires it.
    type: path
  keyring:
    description:
      - Who may sign O(checksums). A file on the controller with public keys for V(gpg) (as C(gpg --export)
        writes them, armored or not), one
        of allowed signers for V(ssh-keygen), or the public key for V(minisign). No other keys count, and no
        setting of the user.
    type: path
"""

    INFO = r"""
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying target.
    support: full
    details: The module never changes anything.
  diff_mode:
    description: Returns details on what has changed (or possibly needs changing in check mode), when in diff
      mode.
    support: N/A
    details: The module never changes anything.
  idempotent:
    description: Running it twice in a row gives the same result.
    support: full
"""

    CHANGE = r"""
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Returns details on what has changed (or possibly needs changing in check mode), when in diff
      mode.
    support: full
  idempotent:
    description: Running it twice in a row changes nothing the second time.
    support: full
"""

    ACTIONGROUP_KMOD = r"""
attributes:
  action_group:
    description: Use C(group/outoftree.kmod.kmod) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - outoftree.kmod.kmod
"""

    KERNEL = r"""
options:
  kernel:
    type: list
    elements: dict
    suboptions:
      package:
        description:
          - Packages (C(.deb), C(.rpm)) of a kernel, or of several, or directories of them. No tool of either
            family is needed.
          - The headers (C(linux-headers), C(kernel-devel)) alone show all symbols and what they are compared
            by. The kernel itself
            (C(linux-image); C(kernel-core) with C(kernel-modules-core)) also shows what is built in, its own
            modules and its keys.
        type: list
        elements: path
      root:
        description: A directory that such packages were unpacked in, or a directory of headers.
        type: path
      symvers:
        description: A C(symvers) file, compressed or not. By that alone a module can be refused, but not be
          found compatible.
        type: path
      release:
        description: The release of the kernel that O(kernel[].symvers) is of, unless its name says so
          (C(symvers-RELEASE)).
        type: str
      offered:
        description:
          - What the host's own package manager offers, by the lists that lie on the host. V(newest) is the kernel
            that the next update brings, V(all) are all that are newer than those installed.
          - Nothing is installed, and lists are not fetched anew. The packages are fetched by the package manager,
            which verifies them.
        type: str
        choices: [newest, all]
      whole:
        description: With O(kernel[].offered), fetch all packages of a kernel (70-110 MB on Debian) and not its headers alone.
        type: bool
        default: false
"""

    BUILDER = r"""
attributes:
  platform:
    description: Target operating systems that the module works on.
    platforms: linux
    support: full
  action:
    description: Has a part that runs on the controller.
    support: full
"""

    CONTROLLER = r"""
attributes:
  platform:
    description: Target operating systems that the module works on.
    platforms: posix
    support: full
  action:
    description: Has a part that runs on the controller.
    support: full
    details: All of it runs there.
  async:
    description: Supports being run with C(async).
    support: none
"""
