// The OpenAPI document as a page to read, offline: no library, no outside host.

const node = (tag, attributes = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.filter(Boolean));
  return made;
};
const text = (tag, textContent, className = "") => node(tag, { textContent, className });
// words in backticks are code, as in Markdown
const prose = (tag, said = "") =>
  node(tag, {}, ...said.split("`").map((part, k) => (k % 2 ? text("code", part) : part)));

const document_ = await fetch("/openapi.json").then((a) => a.json());
const resolve = (schema) =>
  schema?.$ref ? document_.components.schemas[schema.$ref.split("/").pop()] : schema;

function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((v) => JSON.stringify(v)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.anyOf) return schema.anyOf.map(kind).join(" | ");
  if (schema.type === "array") return `${kind(schema.items)}[]`;
  return schema.type ?? "";
}

function row(name, required, schema, description) {
  const first = node("td", {}, text("code", name), required ? document.createTextNode(" *") : null);
  return node("tr", {}, first, node("td", {}, text("code", kind(schema))), prose("td", description));
}

const table = (rows) => (rows.length ? node("table", {}, ...rows) : null);

function fields(schema) {
  const { properties = {}, required = [] } = resolve(schema) ?? {};
  return table(Object.entries(properties).map(([name, s]) =>
    row(name, required.includes(name), s, s.description ?? resolve(s)?.description)));
}

const declared = (answer) =>
  answer.$ref ? document_.components.responses[answer.$ref.split("/").pop()] : answer;

function answers(operation) {
  return table(Object.entries(operation.responses).map(([status, given]) => {
    const answer = declared(given);
    const content = Object.entries(answer.content ?? {})[0];
    const what = content ? kind(content[1].schema) || content[0] : "";
    return node("tr", {}, node("td", {}, text("code", status)), node("td", {}, text("code", what)),
      prose("td", answer.description));
  }));
}

function operationPage(path, verb, operation) {
  const body = operation.requestBody?.content?.["application/json"];
  const example = Object.values(body?.examples ?? {}).at(-1)?.value;
  const scope = Object.values(operation.security?.[0] ?? {}).flat().join(", ");
  return node("article", {}, node("details", {},
    node("summary", {}, text("span", verb.toUpperCase(), `verb ${verb}`), text("code", path),
      document.createTextNode(` ${operation.summary}`)),
    prose("p", operation.description),
    scope ? text("p", `Scope: ${scope}`) : null,
    table((operation.parameters ?? []).map((p) =>
      row(`${p.in}: ${p.name}`, p.required, p.schema, p.description))),
    body ? fields(body.schema) : null,
    example ? text("pre", JSON.stringify(example, null, 2)) : null,
    text("h2", "Responses"), answers(operation)));
}

const page = document.getElementById("page");
page.replaceChildren(prose("p", document_.info.description));
for (const tag of document_.tags) {
  page.append(text("h2", `${tag.name}: ${tag.description}`));
  for (const [path, verbs] of Object.entries(document_.paths)) {
    for (const [verb, operation] of Object.entries(verbs)) {
      if (operation.tags?.[0] === tag.name) page.append(operationPage(path, verb, operation));
    }
  }
}
page.append(text("h2", "Schemas"));
for (const [name, schema] of Object.entries(document_.components.schemas)) {
  page.append(node("article", {}, node("details", {}, text("summary", name),
    prose("p", schema.description), schema.properties ? fields(schema) : text("code", kind(schema)))));
}
