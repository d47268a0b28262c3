// Asks the server for new samples once a second; less and less often while the server is not reachable.

const MIN_PAUSE_S = 1, MAX_PAUSE_S = 5, TIMEOUT_MS = 5000;
const TOKEN_KEY = "proteus-token";

export class Feed {
  // handlers: {onData(document), onUnreachable(pause_s), onLocked(wasRefused)}
  constructor(handlers) {
    this.handlers = handlers;
    this.cursor = "";
    this.failures = 0;
    this.timer = 0;
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.ask(); });
  }

  unlock(token) {
    sessionStorage.setItem(TOKEN_KEY, token);
    this.ask();
  }

  async ask() {
    clearTimeout(this.timer);
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      this.schedule(await this.poll());
    } finally {
      this.isAsking = false;
    }
  }

  schedule(seconds) {
    if (seconds !== null) this.timer = setTimeout(() => this.ask(), seconds * 1000);
  }

  // Ask once. Returns the seconds until the next time, or null: wait for a token.
  async poll() {
    const token = sessionStorage.getItem(TOKEN_KEY);
    let answer, found;
    try {
      answer = await fetch(`/v2/proteus/history${this.cursor && `?since=${this.cursor}`}`, {
        headers: token ? {authorization: `Bearer ${token}`} : {},
        cache: "no-store",
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      if (answer.status === 401) {
        sessionStorage.removeItem(TOKEN_KEY);
        this.handlers.onLocked(Boolean(token));
        return null;
      }
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      found = await answer.json();
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof DOMException || error instanceof SyntaxError || answer)) throw error;
      const pause_s = Math.min(MAX_PAUSE_S, MIN_PAUSE_S * 2 ** this.failures++);
      this.handlers.onUnreachable(pause_s);
      return pause_s;
    }
    this.failures = 0;
    this.cursor = found.cursor;
    this.handlers.onData(found);
    return found.complete ? (document.hidden ? 5 * MIN_PAUSE_S : MIN_PAUSE_S) : 0;
  }
}
