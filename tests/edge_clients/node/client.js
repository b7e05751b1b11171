// Plays the script of the edge's clients with @grpc/grpc-js. Its arguments are
// the address, the contract as a FileDescriptorSet, and the id of its node.
// What it sees is printed, a line each.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const modules = path.join(process.env.EDGE_CLIENT_MODULES, "node_modules");
const grpc = require(path.join(modules, "@grpc/grpc-js"));
const loader = require(path.join(modules, "@grpc/proto-loader"));

const REPORTS = 3;
const DEADLINE_MS = 300;

const [address, protoset, node] = process.argv.slice(2);
const definition = loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(protoset), {
  longs: Number,
  defaults: true,
});
const { ConfigSyncService } = grpc.loadPackageDefinition(definition).voxplane.v1;
const client = new ConfigSyncService(address, grpc.credentials.createInsecure());

function said(step, more = {}) {
  process.stdout.write(JSON.stringify({ step, ...more }) + "\n");
}

function unary(report) {
  return new Promise((done) => client.ReportConfigStatus(report, (error) => done(error)));
}

function stream(first) {
  return new Promise((done, failed) => {
    const call = client.StreamConfigStatus((error, answer) => (error ? failed(error) : done(answer.reports)));
    for (let sequence = 2; sequence < REPORTS + 2; sequence++) {
      call.write({ report: { stream_id: first.stream_id, nonce: first.nonce, sequence } });
    }
    call.end();
  });
}

// Errors carry google.rpc.Status in a trailer; the reason is looked for as text.
function reason(error) {
  const [details] = error.metadata.get("grpc-status-details-bin");
  return details !== undefined && details.includes("STREAM_NOT_FOUND") ? "STREAM_NOT_FOUND" : "";
}

function late() {
  const deadline = new Date(Date.now() + DEADLINE_MS);
  const call = client.WatchConfig({ tenant_id: "acme", node: { node_id: `${node}-late` } }, { deadline });
  return new Promise((done) => {
    call.on("data", () => {});
    call.on("error", (error) => done(error.code));
  });
}

async function answer(first) {
  const failed = await unary({ stream_id: first.stream_id, nonce: first.nonce, sequence: 1 });
  if (failed) throw failed;
  said("unary");
  said("stream", { reports: await stream(first) });
  const error = await unary({ stream_id: "none", sequence: 1 });
  said("error", { code: error.code, reason: reason(error) });
  said("ready");
}

const watch = client.WatchConfig({ tenant_id: "acme", node: { node_id: node } });
let transfers = 0;
watch.on("data", async (message) => {
  if (!message.transfer) return;
  transfers += 1;
  if (transfers === 1) {
    said("watch", { revision: message.transfer.revision.number, nonce: message.nonce });
    await answer(message);
    return;
  }
  said("change", { revision: message.transfer.revision.number });
  said("deadline", { code: await late() });
  watch.cancel();
});
watch.on("error", (error) => {
  if (error.code !== grpc.status.CANCELLED) throw error;
  client.close();
});
