// Asks a served demo hub everything a crawl needs, with @huggingface/hub: a client that nobody here wrote.
// Usage: npm install && node check.mjs http://127.0.0.1:8600

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
  downloadFile, fileDownloadInfo, fileExists, listCommits, listFiles, listModels, modelInfo, parseSafetensorsMetadata,
  pathsInfo,
} from "@huggingface/hub";

const hubUrl = process.argv[2] ?? "http://127.0.0.1:8600";
const done = [];

async function check(what, run) {
  const found = await run();
  done.push(what);
  console.log(`ok  ${what}${found === undefined ? "" : `: ${found}`}`);
}

async function all(iterator) {
  const items = [];
  for await (const item of iterator) items.push(item);
  return items;
}

async function fails(promise, status) {
  const error = await promise.then(() => undefined, (reason) => reason);
  assert.ok(error, "should have been refused");
  if (status !== undefined) assert.equal(error.statusCode, status, String(error));
  return `${error.name}: ${String(error.message).slice(0, 80)}`;
}

const models = await all(listModels({
  search: { task: "image-classification" }, hubUrl, limit: 10_000,
  additionalFields: ["sha", "tags", "author", "library_name", "safetensors"],
}));
const healthy = models.find((model) => !model.name.startsWith("trouble/") && model.library_name === "transformers");
const repo = { type: "model", name: healthy.name };

await check("listModels, every page", () => {
  assert.equal(new Set(models.map((model) => model.name)).size, models.length);
  assert.ok(models.every((model) => model.id && model.updatedAt));
  return `${models.length} models`;
});
await check("listModels by owner and tag", async () => {
  const owner = repo.name.split("/")[0];
  const found = await all(listModels({ search: { owner, tags: ["safetensors"] }, hubUrl }));
  assert.ok(found.length > 0 && found.every((model) => model.name.startsWith(`${owner}/`)));
});
await check("modelInfo", async () => {
  const info = await modelInfo({ name: repo.name, hubUrl, additionalFields: ["sha", "safetensors", "tags", "author"] });
  assert.equal(info.sha, healthy.sha);
  assert.deepEqual(info.tags, healthy.tags);
  return `${info.name} at ${info.sha}`;
});
const files = await all(listFiles({ repo, recursive: true, hubUrl }));
const weights = files.find((file) => file.path === "model.safetensors");
await check("listFiles", () => files.map((file) => file.path).join(", "));
await check("listFiles with commits", async () => {
  const expanded = await all(listFiles({ repo, recursive: true, expand: true, hubUrl }));
  assert.ok(expanded.every((file) => file.lastCommit?.id === healthy.sha));
});
await check("pathsInfo", async () => {
  const [info] = await pathsInfo({ repo, paths: ["model.safetensors"], hubUrl });
  assert.equal(info.lfs.oid, weights.lfs.oid);
});
await check("fileExists", async () => {
  assert.equal(await fileExists({ repo, path: "config.json", hubUrl }), true);
  assert.equal(await fileExists({ repo, path: "nothing.json", hubUrl }), false);
});
await check("fileDownloadInfo", async () => {
  const info = await fileDownloadInfo({ repo, path: "model.safetensors", hubUrl });
  assert.equal(info.size, weights.size);
  return `${info.size} bytes, etag ${info.etag}`;
});
await check("downloadFile, small", async () => {
  const blob = await downloadFile({ repo, path: "config.json", hubUrl });
  assert.ok(JSON.parse(await blob.text()).model_type);
});
await check("downloadFile, LFS, sha256", async () => {
  const blob = await downloadFile({ repo, path: "model.safetensors", hubUrl });
  const digest = createHash("sha256").update(Buffer.from(await blob.arrayBuffer())).digest("hex");
  assert.equal(digest, weights.lfs.oid);
});
await check("parseSafetensorsMetadata", async () => {
  const parsed = await parseSafetensorsMetadata({ repo, hubUrl, computeParametersCount: true });
  return JSON.stringify(parsed.parameterCount);
});
await check("listCommits", async () => {
  const commits = await all(listCommits({ repo, hubUrl }));
  assert.equal(commits[0].oid, healthy.sha);
});
if (models.some((model) => model.name.startsWith("trouble/"))) {
  const trouble = (name) => ({ type: "model", name: `trouble/${name}-vision` });
  await check("gone is refused", () => fails(modelInfo({ name: trouble("gone").name, hubUrl }), 401));
  await check("disabled is refused", () => fails(modelInfo({ name: trouble("disabled").name, hubUrl }), 403));
  await check("gated is refused", () =>
    fails(downloadFile({ repo: trouble("gated"), path: "config.json", hubUrl, accessToken: "hf_stranger" }), 403));
  await check("renamed is followed", async () => {
    const info = await modelInfo({ name: trouble("renamed").name, hubUrl });
    assert.notEqual(info.name, trouble("renamed").name);
    return info.name;
  });
}
console.log(`${done.length} checks passed against ${hubUrl}`);
