// The API client of the page: requests with the tab's key, events, images as blobs.
// Knows no element of the page.

const KEY = "printworks-key";
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

export class Problem extends Error {
  constructor(body, status) {
    const fields = (body.errors ?? []).map((e) => `${e.pointer || "/"}: ${e.detail}`);
    super(fields.length ? fields.join("\n") : body.detail ?? body.title ?? `HTTP ${status}`);
    this.status = status;
    this.code = body.code ?? "";
  }
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Problem(body, answer.status);
}

const json = (path, options) => ask(path, options).then((a) => a.json());

export const models = () => json("/v1/models").then((a) => a.models);
export const samplers = () => json("/v1/samplers").then((a) => a.samplers);
export const queue = () => json("/v1/queue");
export const recent = () => json("/v1/jobs?limit=12").then((a) => a.jobs);
export const job = (id) => json(`/v1/jobs/${id}`);
export const cancel = (id) => json(`/v1/jobs/${id}/cancel`, { method: "POST" });
export const erase = (id) => ask(`/v1/jobs/${id}`, { method: "DELETE" });

// A new idempotency key for each press of the button: a request lost on the way can be sent again.
const once = () => ({ "idempotency-key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` });

const upload = (file) =>
  json("/v1/inputs", { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file });

export async function send(request) {
  const image = request.image && { input: (await upload(request.image)).id };
  return json("/v1/jobs", {
    method: "POST",
    headers: { "content-type": "application/json", ...once() },
    body: JSON.stringify({ ...request, image }),
  });
}
export const rerun = (id) => json(`/v1/jobs/${id}/rerun`, { method: "POST", headers: once() });

const kept = new Map(); // picture URL -> blob URL: the list is redrawn often
export async function picture(image) {
  const path = new URL(image.url).pathname; // always this page's origin
  if (!kept.has(path)) {
    const blob = await ask(path).then((a) => a.blob());
    kept.set(path, URL.createObjectURL(blob));
  }
  return kept.get(path);
}

// Server-sent events by fetch: an EventSource cannot send a key.
export async function* events(id, signal) {
  const answer = await ask(`/v1/jobs/${id}/events`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const name = /^event: (.*)$/m.exec(part)?.[1];
      const data = /^data: (.*)$/m.exec(part)?.[1];
      if (name && data) yield { name, data: JSON.parse(data) };
    }
  }
}
