// Asks the server for what is new once a second. Where it is gone, less and less often, until it is back.

const SOONEST_S = 1, LATEST_S = 5, WITHIN_MS = 5000;
const KEY = "proteus-token";

export class Feed {
  // told: {data(document), lost(retryInSeconds), locked(wasRefused)}
  constructor(told) {
    this.told = told;
    this.cursor = "";
    this.failures = 0;
    this.timer = 0;
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.ask(); });
  }

  unlock(token) {
    sessionStorage.setItem(KEY, token);
    this.ask();
  }

  async ask() {
    clearTimeout(this.timer);
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      this.later(await this.next());
    } finally {
      this.isAsking = false;
    }
  }

  later(seconds) {
    if (seconds !== null) this.timer = setTimeout(() => this.ask(), seconds * 1000);
  }

  // One question; returns after how many seconds to ask again, or null to wait for a token.
  async next() {
    const token = sessionStorage.getItem(KEY);
    let answer, found;
    try {
      answer = await fetch(`/v2/proteus/history${this.cursor && `?since=${this.cursor}`}`, {
        headers: token ? {authorization: `Bearer ${token}`} : {},
        cache: "no-store",
        signal: AbortSignal.timeout(WITHIN_MS),
      });
      if (answer.status === 401) {
        sessionStorage.removeItem(KEY);
        this.told.locked(Boolean(token));
        return null;
      }
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      found = await answer.json();
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof DOMException || error instanceof SyntaxError || answer)) throw error;
      const wait_s = Math.min(LATEST_S, SOONEST_S * 2 ** this.failures++);
      this.told.lost(wait_s);
      return wait_s;
    }
    this.failures = 0;
    this.cursor = found.cursor;
    this.told.data(found);
    return found.complete ? (document.hidden ? 5 * SOONEST_S : SOONEST_S) : 0;
  }
}
