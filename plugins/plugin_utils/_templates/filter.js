"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const groups = [...document.querySelectorAll(".group")];
  const parts = [...document.querySelectorAll(".state")];
  const wasOpen = parts.map((part) => part.open);
  const search = byId("search"), state = byId("state"), driver = byId("driver"), found = byId("found");
  let texts = null;

  const filter = () => {
    texts = texts || groups.map((group) => group.textContent.toLowerCase());
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const asked = words.length > 0 || state.value !== "" || driver.value !== "";
    let shown = 0, hosts = 0;
    groups.forEach((group, at) => {
      const fits = (!state.value || group.dataset.state === state.value)
        && (!driver.value || group.dataset.drivers.split(" ").includes(driver.value))
        && words.every((word) => texts[at].includes(word));
      group.hidden = !fits;
      shown += fits;
      hosts += fits ? Number(group.dataset.hosts) : 0;
    });
    parts.forEach((part, at) => {
      const any = part.querySelector(".group:not([hidden])") !== null;
      part.hidden = asked && !any;
      part.open = asked ? any : wasOpen[at];
    });
    found.textContent = asked
      ? shown.toLocaleString("en") + " of " + groups.length.toLocaleString("en") + " groups, "
        + hosts.toLocaleString("en") + (hosts === 1 ? " host" : " hosts")
      : "";
  };

  // what a link leads to is opened, with all around it
  const reveal = () => {
    const target = location.hash.length > 1 && byId(location.hash.slice(1));
    if (!target) return;
    if (target.closest("[hidden]")) {
      search.value = state.value = driver.value = "";
      filter();
    }
    for (let each = target; each; each = each.parentElement) {
      if (each.tagName === "DETAILS") each.open = true;
    }
    target.scrollIntoView();
  };

  byId("filter").hidden = false;
  search.addEventListener("input", filter);
  state.addEventListener("change", filter);
  driver.addEventListener("change", filter);
  addEventListener("hashchange", reveal);
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    }
  });
  reveal();
})();
