# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sphinx's settings; tools/build_docs.py lays out what it reads, and runs it."""

project = "outoftree.kmod"
author = "Contributors to the outoftree.kmod project"
copyright = author
extensions = ["myst_parser", "sphinx_antsibull_ext"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = ["myst.header", "ref.python"]
highlight_language = "none"
html_theme = "furo"
html_title = "outoftree.kmod"
html_show_sphinx = False
exclude_patterns = ["**/tests/transactions/**"]
