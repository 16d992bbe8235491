// Makes, reads, changes and deletes a secret with types made from docs/openapi.json.
// Argument: the service's URL.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: string[] };

const client = createClient<paths>({
  baseUrl: process.argv[2],
  headers: { "x-vaultmux-request": "true" },
});
const name = "prod/made-by-typescript";
const path = { name };

function check(holds: unknown, what: unknown): asserts holds {
  if (!holds) throw new Error(JSON.stringify(what));
}

const created = await client.POST("/v1/secrets", { body: { name, value: "one" } });
check(created.data?.name === name, created.error);
const taken = await client.POST("/v1/secrets", { body: { name, value: "two" } });
const code: components["schemas"]["ProblemCode"] | undefined = taken.error?.code;
check(code === "already_exists", taken);

const read = await client.GET("/v1/secrets/{name}", { params: { path } });
// Raw bytes come only where they are asked for.
check(typeof read.data === "object" && read.data.value === "one", read.error);
const tag = read.response.headers.get("etag") ?? "";
const header = { "If-Match": tag };
const updated = await client.PUT("/v1/secrets/{name}", {
  params: { path, header },
  body: { value: "two" },
});
check(updated.data?.version === "2", updated.error);
const lost = await client.PUT("/v1/secrets/{name}", {
  params: { path, header },
  body: { value: "three" },
});
check(lost.error?.code === "precondition_failed", lost);

const listed = await client.GET("/v1/secrets", {
  params: { query: { prefix: "prod/made", limit: 10 } },
});
check(listed.data?.secrets.includes(name), listed);
const many = await client.POST("/v1/secrets:batchGet", {
  body: { secrets: [{ name }, { name: "other/key" }] },
});
check(many.data?.secrets[0]?.value === "two", many);
check(many.data?.errors[0]?.code === "forbidden", many);

const deleted = await client.DELETE("/v1/secrets/{name}", { params: { path } });
check(deleted.response.status === 204, deleted);
const gone = await client.GET("/v1/secrets/{name}", { params: { path } });
check(gone.error?.error === "secret not found", gone);
console.log("done");
