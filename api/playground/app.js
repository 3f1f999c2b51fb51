// The page: reads the settings, sends a job, shows its progress and its images.
// All text from outside goes through textContent: a prompt is never markup.

import * as service from "./service.js";

const $ = (id) => document.getElementById(id);
const state = { models: [], samplers: new Map(), job: null, follow: null };

function node(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.filter((c) => c !== null));
  return made;
}

// --- settings

function fillModel() {
  const model = state.models.find((m) => m.id === $("model").value) ?? state.models[0];
  if (!model) return;
  const { limits, defaults } = model;
  Object.assign($("steps"), { max: limits.max_steps, value: defaults.steps });
  Object.assign($("guidance_scale"), { max: limits.max_guidance, value: defaults.guidance_scale });
  $("n").max = limits.max_n;
  $("prompt").maxLength = $("negative_prompt").maxLength = limits.max_prompt_chars;
  const options = model.samplers.map((id) =>
    node("option", { value: id, textContent: state.samplers.get(id)?.title ?? id }));
  $("sampler").replaceChildren(...options);
  $("sampler").value = defaults.sampler;
  for (const label of document.querySelectorAll(".begin")) label.hidden = !takesImages();
  showValues();
}

function showValues() {
  for (const output of document.querySelectorAll("output")) {
    output.textContent = $(output.htmlFor.value).value;
  }
  $("good_for").textContent = state.samplers.get($("sampler").value)?.good_for ?? "";
}

function takesImages() {
  const model = state.models.find((m) => m.id === $("model").value) ?? state.models[0];
  return model?.inputs.includes("image") ?? false;
}

function request() {
  const asked = {
    prompt: $("prompt").value,
    model: $("model").value,
    steps: Number($("steps").value),
    guidance_scale: Number($("guidance_scale").value),
    sampler: $("sampler").value,
    n: Number($("n").value),
    output: { format: $("format").value },
  };
  asked.preview = true;
  if ($("image").files.length && takesImages()) {
    Object.assign(asked, { image: $("image").files[0], strength: Number($("strength").value), resize: "cover" });
  }
  if ($("negative_prompt").value) asked.negative_prompt = $("negative_prompt").value;
  if ($("aspect_ratio").value) asked.aspect_ratio = $("aspect_ratio").value;
  if ($("seed").value !== "") asked.seed = Number($("seed").value);
  return asked;
}

function useSettings(job) {
  const r = job.resolved;
  $("model").value = r.model;
  fillModel();
  for (const id of ["prompt", "negative_prompt", "steps", "guidance_scale", "sampler", "n"]) {
    $(id).value = r[id];
  }
  $("seed").value = r.seed[0];
  $("format").value = r.output.format;
  $("aspect_ratio").value = "";
  $("more").open = true;
  showValues();
  $("prompt").focus();
}

// --- the result

const STAGES = {
  waiting: "queued", encoding: "encoding the prompt", denoising: "denoising",
  decoding: "decoding", uploading: "saving",
};

function showProgress(progress, stage, queue) {
  const place = queue?.position ? `, ${queue.position} ahead` : "";
  const wait = queue?.eta_seconds ? `, about ${Math.ceil(queue.eta_seconds)} s` : "";
  const steps = progress.steps && stage === "denoising" ? ` · ${progress.step} of ${progress.steps}` : "";
  $("progress").value = progress.fraction ?? 0;
  $("sheet").style.setProperty("--done", progress.fraction ?? 0);
  $("stage").textContent = (STAGES[stage] ?? stage ?? "") + steps + place + wait;
}

// The preview of an image under way: small, so the page shows it blurred.
function showPreview({ index, content_type: type, data }) {
  if (!$("sheet").classList.contains("printing")) return;
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const src = URL.createObjectURL(new Blob([bytes], { type }));
  const { width, height } = state.job.resolved;
  const img = node("img", { src, alt: "", width, height, className: "preview" });
  img.addEventListener("load", () => URL.revokeObjectURL(src));
  const shown = $("sheet").querySelector(`figure[data-index="${Number(index)}"]`);
  if (shown) return shown.replaceChildren(img);
  const figure = node("figure", {}, img);
  figure.dataset.index = Number(index);
  $("sheet").append(figure);
  $("sheet").dataset.count = $("sheet").children.length;
}

async function showPictures(job) {
  const figures = await Promise.all(job.images.map(async (image) => {
    const src = await service.picture(image).catch(() => "");
    const name = `${job.id}-${image.index}.${image.content_type.split("/")[1]}`;
    const link = node("a", { href: src, download: name, title: "Save" },
      node("img", { src, alt: job.resolved.prompt, width: image.width, height: image.height }));
    return node("figure", {}, link, node("figcaption", { textContent: `seed ${image.seed}` }));
  }));
  if (state.job?.id !== job.id) return;
  $("sheet").dataset.count = figures.length;
  $("sheet").replaceChildren(...figures);
}

const ENDS = {
  failed: (job) => job.error?.message ?? "The job failed. Try again.",
  canceled: (job) => `Canceled after ${job.progress.step} model calls.`,
  expired: () => "The deadline passed before the job was done.",
};

function shownSeeds(seeds) {
  const inTurn = seeds.every((seed, k) => seed === seeds[0] + k);
  return seeds.length > 2 && inTurn ? `${seeds[0]} to ${seeds.at(-1)}` : seeds.join(", ");
}

function showFacts(job) {
  const r = job.resolved;
  const m = job.metrics;
  const facts = {
    Size: `${r.width} × ${r.height}`, Steps: r.steps, Guidance: r.guidance_scale,
    Sampler: state.samplers.get(r.sampler)?.title ?? r.sampler, Seed: shownSeeds(r.seed),
    "Average batch size": m.batch_size_mean ? m.batch_size_mean.toFixed(1) : null,
    Reproducibility: job.reproducibility,
  };
  const shown = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined);
  $("facts").replaceChildren(...shown.map(([name, value]) =>
    node("div", {}, node("dt", { textContent: name }), node("dd", { textContent: value }))));
  $("facts").hidden = $("after").hidden = false;
}

async function showJob(job) {
  state.job = job;
  const over = ["succeeded", "failed", "canceled", "expired"].includes(job.status);
  $("run").hidden = over;
  $("stop").hidden = over;
  $("go").disabled = !over;
  $("sheet").classList.toggle("printing", !over);
  markCurrent();
  if (!over) {
    $("facts").hidden = $("after").hidden = true;
    showProgress(job.progress, job.stage, job.queue);
    return;
  }
  showFacts(job);
  if (job.status === "succeeded") await showPictures(job);
  else $("sheet").replaceChildren(node("p", { className: "hint", textContent: ENDS[job.status](job) }));
}

async function follow(job) {
  state.follow?.abort();
  const follow = (state.follow = new AbortController());
  delete $("sheet").dataset.count;
  $("sheet").replaceChildren();
  // the form may be as tall as the window: scroll to the result, so that progress is visible
  $("press").scrollIntoView({ block: "nearest", behavior: "smooth" });
  await showJob(job);
  for (let tries = 0; !follow.signal.aborted; tries += 1) {
    try {
      for await (const { name, data } of service.events(job.id, follow.signal)) {
        tries = 0;
        if (name === "progress") showProgress(data, data.stage, null);
        else if (name === "preview") showPreview(data);
        else if (name === "gone") return idle();
        else if (name !== "image") await showJob(data);
        if (name === "done") return list();
      }
    } catch (error) {
      if (follow.signal.aborted) return;
      if (error.status && error.status < 500 && error.status !== 429) return complain(error);
    }
    // the stream broke: the service restarts, or the network does
    await new Promise((resolve) => setTimeout(resolve, Math.min(8000, 500 * 2 ** tries)));
  }
}

function idle() {
  state.job = null;
  $("run").hidden = $("stop").hidden = $("facts").hidden = $("after").hidden = true;
  $("go").disabled = false;
  $("sheet").classList.remove("printing");
  $("sheet").replaceChildren(node("p", { className: "hint", textContent: "The job was deleted." }));
  list();
}

// --- recent jobs

function markCurrent() {
  for (const button of $("jobs").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(button.dataset.id === state.job?.id));
  }
}

function entry(job) {
  const words = node("span", { className: "words", textContent: job.resolved.prompt });
  const blank = node("span", { className: "blank", textContent: job.status });
  const button = node("button", { type: "button", title: job.resolved.prompt }, blank, words);
  button.dataset.id = job.id;
  button.addEventListener("click", () => follow(job).catch(complain));
  if (job.images.length) {
    service.picture(job.images[0])
      .then((src) => blank.replaceWith(node("img", { src, alt: "" })))
      .catch(() => {});
  }
  return node("li", {}, button);
}

async function list() {
  const jobs = await service.recent();
  $("jobs").replaceChildren(...jobs.map(entry));
  $("recent").hidden = jobs.length === 0;
  markCurrent();
  await busy();
}

async function busy() {
  const { queued, running, models } = await service.queue();
  const workers = models.reduce((sum, m) => Math.max(sum, m.workers), 0);
  $("service").textContent = workers
    ? `${workers} worker${workers > 1 ? "s" : ""} · ${running} running · ${queued} queued`
    : "no worker is running: jobs stay in the queue";
}

// --- errors

function complain(error) {
  if (error.status === 401) {
    $("door").showModal();
    return;
  }
  $("problem").textContent = error.message;
  $("problem").hidden = false;
}

async function print(sending) {
  $("problem").hidden = true;
  $("go").disabled = true;
  try {
    const job = await sending();
    list().catch(() => {});
    await follow(job);
  } catch (error) {
    $("go").disabled = false;
    complain(error);
  }
}

function curl() {
  const asked = request();
  if (asked.image) asked.image = { input: "the ID that POST /v1/inputs returns" };
  const body = JSON.stringify(asked).replaceAll("'", "'\\''");
  const header = service.key.get() ? " -H 'authorization: Bearer $PRINTWORKS_KEY'" : "";
  const line = `curl -s ${location.origin}/v1/jobs -H 'content-type: application/json'${header} -d '${body}'`;
  navigator.clipboard?.writeText(line).then(
    () => { $("curl").textContent = "Copied"; setTimeout(() => { $("curl").textContent = "Copy as curl"; }, 1500); },
    () => complain(new Error(line)),
  ) ?? complain(new Error(line));
}

// --- wiring

async function open() {
  const [models, samplers] = await Promise.all([service.models(), service.samplers()]);
  state.models = models;
  state.samplers = new Map(samplers.map((s) => [s.id, s]));
  $("model").replaceChildren(...models.map((m) => node("option", { value: m.id, textContent: m.title || m.id })));
  fillModel();
  await list();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("go").disabled) print(() => service.send(request()));
});
$("ask").addEventListener("input", showValues);
$("model").addEventListener("change", fillModel);
for (const idea of $("ideas").children) {
  idea.addEventListener("click", () => { 
    $("prompt").value = idea.textContent;
    if (state.models.length) $("ask").requestSubmit();
  });
}
$("forget").addEventListener("click", () => { $("seed").value = ""; });
$("curl").addEventListener("click", curl);
$("stop").addEventListener("click", () => service.cancel(state.job.id).catch(complain));
$("reuse").addEventListener("click", () => useSettings(state.job));
$("again").addEventListener("click", () => print(() => service.rerun(state.job.id)));
$("erase").addEventListener("click", () => service.erase(state.job.id).then(idle).catch(complain));
$("door").addEventListener("close", () => {
  if (!$("key").value) return;
  service.key.set($("key").value.trim());
  open().catch(complain);
});
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter") $("ask").requestSubmit();
  if (event.key === "Escape" && !$("stop").hidden) $("stop").click();
});
setInterval(() => { if (!document.hidden && state.models.length) busy().catch(() => {}); }, 5000);
open().catch(complain);
