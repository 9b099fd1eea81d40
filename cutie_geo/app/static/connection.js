// One WebSocket for a video: commands with answers, and events. It reconnects, and the server then sends the state again.

const FIRST_WAIT = 300;
const LONGEST_WAIT = 5000;

export class Connection extends EventTarget {
  constructor(video) {
    super();
    this.url = `ws://${location.host}/api/videos/${video}/events`;
    this.waiting = new Map();
    this.number = 0;
    this.wait = FIRST_WAIT;
    this.closed = false;
    this.open();
  }

  open() {
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.onopen = () => {
      this.wait = FIRST_WAIT;
      this.dispatchEvent(new CustomEvent("online"));
    };
    socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    socket.onclose = () => this.lost();
  }

  receive(message) {
    if (message.event) {
      this.dispatchEvent(new CustomEvent(message.event, { detail: message }));
      return;
    }
    const waiting = this.waiting.get(message.id);
    if (!waiting) return;
    this.waiting.delete(message.id);
    if (message.error) waiting.reject(new Error(message.error));
    else waiting.resolve(message);
  }

  lost() {
    for (const { reject } of this.waiting.values()) reject(new Error("The connection to the program was lost."));
    this.waiting.clear();
    if (this.closed) return;
    this.dispatchEvent(new CustomEvent("offline"));
    setTimeout(() => this.closed || this.open(), this.wait);
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
  }

  // Send a command; the promise has the answer, or fails with the server's reason.
  ask(kind, fields = {}) {
    if (this.socket.readyState !== WebSocket.OPEN) {
      return Promise.reject(new Error("Not connected to the program. Is it still running?"));
    }
    const id = ++this.number;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.socket.send(JSON.stringify({ id, do: kind, ...fields }));
    });
  }

  close() {
    this.closed = true;
    this.socket.close();
  }
}

export async function fetchJson(url, options = {}) {
  const response = await fetch(url, options);
  const text = await response.text();
  if (!response.ok) {
    let reason = text.trim();
    try { reason = JSON.parse(text).error ?? reason; } catch { /* plain text */ }
    throw new Error(reason || `The program answered ${response.status}.`);
  }
  return JSON.parse(text);
}
