# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kernels a host would get, by the real apt on directory hosts and repositories of made-up packages."""

import os
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.make import unpack
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered import offers
from tests.forge import families, repositories
from tests.forge.repositories import deb

pytestmark = pytest.mark.skipif(bool(repositories.lacking(repositories.APT)), reason="needs apt and dpkg-dev")
OLD, MIDDLE, NEW = "6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-11-amd64"
CLOUD, OTHER = "6.1.0-11-cloud-amd64", "6.12.5+deb12-amd64"
META = {
    "Package": "linux-image-amd64",
    "Version": "6.1.9-1",
    "Source": "linux-signed-amd64",
    "Depends": "linux-image-" + OLD,
}
IMAGE = {"Package": "linux-image-" + OLD, "Version": "6.1.9-1", "Source": "linux-signed-amd64 (6.1.9+1)"}


def kernel(repository, release, version, source="linux-signed-amd64", headers=True, **fields):
    deb(repository, "linux-image-" + release, version, Source=source, **fields)
    if headers:
        deb(repository, "linux-headers-" + release, version, Depends="linux-image-" + release)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Newer kernels of the host's flavour, of another flavour, and of another series; and what leads to them."""
    place = tmp_path_factory.mktemp("debs")
    kernel(place, OLD, "6.1.9-1")
    kernel(place, MIDDLE, "6.1.10-1")
    kernel(place, NEW, "6.1.11-1")
    kernel(place, CLOUD, "6.1.11-1", headers=False)
    kernel(place, OTHER, "6.12.5-1", source="linux-signed-6.12-amd64", headers=False)
    deb(
        place,
        "linux-image-6.12-amd64",
        "6.12.5-1",
        Source="linux-signed-6.12-amd64",
        Depends="linux-image-" + OTHER,
    )
    deb(place, "linux-image-%s-unsigned" % NEW, "6.1.11-1", Source="linux")
    depends = "linux-image-%s (= 6.1.11-1)" % NEW
    deb(place, "linux-image-amd64", "6.1.11-1", Source="linux-signed-amd64", Depends=depends)
    repositories.apt_lists(place)
    return place


@pytest.fixture
def repository(tmp_path, stock):
    shutil.copytree(str(stock), str(tmp_path / "repository"))
    return tmp_path / "repository"


@pytest.fixture
def root(tmp_path, repository):
    """A host with one kernel, that follows the newest."""
    families.kernel(tmp_path / "root", OLD)
    repositories.apt_host(tmp_path / "root", [repository], [META, IMAGE])
    return tmp_path / "root"


def asked(root, which):
    with lock.scratch() as scratch:
        return offers.offers(offers.asking(Host(str(root)), scratch), which)


def found(root, which):
    return [each.release for each in asked(root, which).kernels]


def code(root, which="newest"):
    with pytest.raises(KmodError) as caught:
        asked(root, which)
    return caught.value.code


def files(root):
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


def test_the_newest_is_what_the_hosts_meta_package_leads_to(root):
    answer = asked(root, "newest")
    (only,) = answer.kernels
    assert (answer.manager, only.release, only.newest, answer.missing) == ("apt", NEW, True, ())
    assert [(each.name, each.version) for each in only.small] == [("linux-headers-" + NEW, "6.1.11-1")]
    assert [(each.name, each.version) for each in only.whole] == [("linux-image-" + NEW, "6.1.11-1")]


def test_all_are_the_newer_ones_of_the_same_flavour_and_series(root):
    assert found(root, "all") == [MIDDLE, NEW]


@pytest.mark.full
def test_without_a_meta_package_it_goes_by_flavour_and_source_of_the_kernels_that_are_there(root, repository):
    for installed in ([IMAGE], []):
        repositories.apt_host(root, [repository], installed)
        assert (found(root, "newest"), found(root, "all")) == ([NEW], [MIDDLE, NEW])


@pytest.mark.full
def test_a_host_that_has_the_newest_is_told_so_and_by_no_error(root):
    for release in (MIDDLE, NEW):
        families.kernel(root, release)
    assert (found(root, "newest"), found(root, "all")) == ([], [])


@pytest.mark.full
def test_a_kernel_that_is_there_and_comes_in_newer_packages_is_offered(root, repository):
    kernel(repository, OLD, "6.1.9-2")
    deb(repository, "linux-image-amd64", "6.1.12-1", Depends="linux-image-%s (= 6.1.9-2)" % OLD)
    repositories.apt_lists(repository)
    repositories.apt_update(root)
    (only,) = asked(root, "newest").kernels
    assert (only.release, only.whole[0].version) == (OLD, "6.1.9-2")


@pytest.mark.full
def test_meta_packages_of_two_steps_and_an_image_that_is_split(root, repository):
    """As Ubuntu has it (linux-generic, modules apart), and sid (linux-binary)."""
    release = "6.8.0-45-generic"
    deb(repository, "linux-generic", "6.8.0-45.45", Depends="linux-image-generic, linux-headers-generic")
    deb(repository, "linux-image-generic", "6.8.0-45.45", Depends="linux-image-%s, linux-firmware" % release)
    kernel(
        repository, release, "6.8.0-45.45", source="linux-signed", Depends="kmod, linux-modules-" + release
    )
    deb(repository, "linux-modules-" + release, "6.8.0-45.45", Depends="linux-binary-" + release)
    deb(repository, "linux-binary-" + release, "6.8.0-45.45")
    deb(repository, "linux-modules-extra-" + release, "6.8.0-45.45")
    deb(repository, "linux-tools-" + release, "6.8.0-45.45")
    repositories.apt_lists(repository)
    meta = {"Package": "linux-generic", "Version": "6.8.0-40.40", "Depends": "linux-image-generic"}
    repositories.apt_host(root, [repository], [meta])
    (only,) = asked(root, "newest").kernels
    assert only.release == release
    assert sorted(each.name.replace(release, "R") for each in only.whole) == [
        "linux-binary-R",
        "linux-image-R",
        "linux-modules-R",
        "linux-modules-extra-R",
    ]


@pytest.mark.full
def test_where_there_are_no_headers_all_of_the_kernel_is_wanted(root, repository):
    (repository / ("linux-headers-%s_6.1.11-1_amd64.deb" % NEW)).unlink()
    repositories.apt_lists(repository)
    repositories.apt_update(root)
    (only,) = asked(root, "newest").kernels
    assert [each.name for each in only.wanted(whole=False)] == ["linux-image-" + NEW]


@pytest.mark.full
def test_a_kernel_that_is_held_back_is_offered_all_the_same(root):
    (root / "etc/apt/preferences.d/hold").write_text(
        "Package: /^linux-([a-z0-9.+-]+-)?%s$/\nPin: release *\nPin-Priority: -1\n" % NEW
    )
    assert found(root, "newest") == [NEW]


def test_nothing_of_the_host_is_changed_by_asking_and_by_fetching(root, tmp_path):
    before = files(root)
    assert [path.name for path in fetched(root, tmp_path)] == ["linux-headers-%s_6.1.11-1_amd64.deb" % NEW]
    assert files(root) == before


@pytest.mark.full
def test_the_age_of_the_lists_is_told(root):
    assert asked(root, "newest").age < 3600
    repositories.aged(root, ["var/lib/apt/lists", "var/lib/apt/lists/partial"], days=23)
    answer = asked(root, "newest")
    assert answer.age // 86400 == 23
    assert answer.kernels[0].lists == "apt's lists, 23 days old"


# What cannot be told is an error


def test_lists_that_were_never_fetched(root):
    for path in (root / "var/lib/apt/lists").glob("*Packages*"):
        path.unlink()
    assert code(root) == "OFFERED_NO_LISTS"


@pytest.mark.full
def test_lists_without_a_kernel(root, repository):
    for path in repository.glob("*.deb"):
        path.unlink()
    deb(repository, "hello", "1")
    repositories.apt_lists(repository)
    repositories.apt_update(root)
    assert code(root) == code(root, "all") == "OFFERED_NONE"


@pytest.mark.full
def test_sources_that_cannot_be_read(root):
    (root / "etc/apt/sources.list").write_text("deb nonsense\n")
    assert code(root) == "OFFERED_BROKEN"


@pytest.mark.full
def test_nothing_new_is_not_said_where_a_repository_was_never_fetched(root, tmp_path):
    with (root / "etc/apt/sources.list").open("a") as sources:
        sources.write("deb [trusted=yes] file:%s ./\n" % (tmp_path / "gone"))
    (gone,) = asked(root, "newest").missing
    assert "/gone" in gone
    for release in (MIDDLE, NEW):
        families.kernel(root, release)
    assert code(root) == "OFFERED_NO_LISTS"


@pytest.mark.full
def test_a_host_without_a_package_manager(tmp_path):
    assert code(tmp_path) == "OFFERED_NO_MANAGER"


# Fetching


def fetched(root, tmp_path, which="newest"):
    target = tmp_path / "fetched"
    target.mkdir()
    with lock.scratch() as scratch:
        asking = offers.asking(Host(str(root)), scratch)
        (kernel, *_more) = offers.offers(asking, which).kernels
        return [type(tmp_path)(path) for path in offers.fetch(asking, kernel.wanted(False), str(target))]


@pytest.mark.full
def test_a_package_is_what_the_lists_say_of_it(root, repository, tmp_path):
    path = repository / ("linux-headers-%s_6.1.11-1_amd64.deb" % NEW)
    assert fetched(root, tmp_path)[0].read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "damage,expected",
    [("truncated", "OFFERED_DAMAGED"), ("other", "OFFERED_DAMAGED"), ("gone", "OFFERED_UNREACHABLE")],
)
def test_a_package_that_is_not_or_is_not_there_is_refused(damage, expected, root, repository, tmp_path):
    path = repository / ("linux-headers-%s_6.1.11-1_amd64.deb" % NEW)
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data[:-30] if damage == "truncated" else data[:-1] + b"X")
    with pytest.raises(KmodError) as caught:
        fetched(root, tmp_path)
    assert caught.value.code == expected
    assert os.listdir(str(tmp_path / "fetched")) == []


@pytest.mark.full
def test_a_repository_that_nobody_vouches_for(root, tmp_path):
    sources = root / "etc/apt/sources.list"
    sources.write_text(sources.read_text().replace("[trusted=yes] ", ""))
    with pytest.raises(KmodError) as caught:
        fetched(root, tmp_path)
    assert caught.value.code == "OFFERED_UNSIGNED"


def test_a_repository_that_does_not_answer_any_more(root, repository, tmp_path):
    with repositories.served(repository) as address:
        repositories.apt_host(root, [address], [META, IMAGE])
        assert fetched(root, tmp_path)[0].name == "linux-headers-%s_6.1.11-1_amd64.deb" % NEW
    shutil.rmtree(str(tmp_path / "fetched"))
    with pytest.raises(KmodError) as caught:
        fetched(root, tmp_path)
    assert caught.value.code == "OFFERED_UNREACHABLE"


@pytest.mark.full
def test_a_host_without_network(root, repository, tmp_path):
    """Its lists are there; the name of the repository cannot be resolved any more."""
    lists = root / "var/lib/apt/lists"
    (old,) = lists.glob("*Packages*")
    (root / "etc/apt/sources.list").write_text("deb [trusted=yes] http://repository.invalid/ ./\n")
    shutil.copy(
        str(old), str(lists / ("repository.invalid_._Packages" + old.suffix.replace("._Packages", "")))
    )
    with pytest.raises(KmodError) as caught:
        fetched(root, tmp_path)
    assert caught.value.code == "OFFERED_UNREACHABLE"


def test_the_headers_of_a_kernel_are_fetched_for_a_build(root, tmp_path):
    """Out of that root's lists, whatever this machine's own apt has set, and nothing of the host is changed."""
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/apt-get").touch()
    before = files(root)
    directory = unpack.fetched(str(root), NEW, str(tmp_path / "keep"))
    assert os.listdir(str(tmp_path / "keep")) == [os.path.basename(directory)]
    assert os.path.basename(directory).startswith(NEW + "_")
    assert unpack.fetched(str(root), NEW, str(tmp_path / "keep")) == directory
    assert unpack.fetched(str(root), "6.1.0-99-amd64", str(tmp_path / "keep")) is None
    assert files(root) == before
