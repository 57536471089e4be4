// The least that speaks the Runtime API, so that what is measured is the function: Lambda's own Node runtime does more.
import { request as ask, Agent } from "node:http";

const api = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation`;
const agent = new Agent({ keepAlive: true });

const send = (method, url, body) =>
  new Promise((resolve, reject) => {
    const call = ask(url, { method, agent }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("end", () => resolve({ headers: response.headers, body: Buffer.concat(parts).toString() }));
    });
    call.on("error", reject);
    call.end(body);
  });

const { handler } = await import("./index.js");
for (;;) {
  const { headers, body } = await send("GET", `${api}/next`);
  const id = headers["lambda-runtime-aws-request-id"];
  try {
    await send("POST", `${api}/${id}/response`, JSON.stringify(await handler(JSON.parse(body))));
  } catch (error) {
    await send("POST", `${api}/${id}/error`, JSON.stringify({ errorType: error.name, errorMessage: error.message }));
  }
}
