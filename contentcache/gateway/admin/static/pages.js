// Everything here works without this script: it shows times in the reader's zone, and states as they change.
"use strict";

const PERIOD = 10000;
const FORMAT = { year: "numeric", month: "short", day: "numeric", hour: "numeric", minute: "2-digit", timeZoneName: "short" };

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) {
      time.textContent = moment.toLocaleString([], FORMAT);
    }
  }
}

async function lookAgain() {
  if (document.hidden) return;
  const response = await fetch(location.pathname, { cache: "no-store" });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (now) {
      localTimes(now);
      if (now.textContent !== old.textContent) old.replaceWith(document.adoptNode(now));
    }
  }
}

localTimes(document);
if (document.querySelector("[data-live]")) {
  setInterval(() => lookAgain().catch(() => {}), PERIOD);
}
