// Asks a model over the agent's Unix socket: FP32 numbers in, FP32 numbers out, as binary tensors.
//
//     node infer.mjs /run/edge-agent/infer.sock MODEL INPUT 1.5 2 3
//
// One request of the Open Inference Protocol v2 by node:http; nothing to install. An app that asks often
// keeps the agent below, whose connection stays open.

import http from "node:http";

const agent = new http.Agent({ keepAlive: true });

export async function infer(socketPath, model, input, numbers) {
  const tensor = Buffer.from(Float32Array.from(numbers).buffer);
  const json = Buffer.from(
    JSON.stringify({
      inputs: [
        {
          name: input,
          datatype: "FP32",
          shape: [1, numbers.length],
          parameters: { binary_data_size: tensor.length },
        },
      ],
      parameters: { binary_data_output: true },
    }),
  );
  const { status, headers, body } = await post(socketPath, `/v2/models/${encodeURIComponent(model)}/infer`, [
    json,
    tensor,
  ], { "Inference-Header-Content-Length": json.length });
  if (status !== 200) throw new Error(JSON.parse(body).error);
  const length = Number(headers["inference-header-content-length"]);
  const answer = JSON.parse(body.subarray(0, length));
  // The bytes of the outputs follow the JSON, in its order.
  let position = length;
  for (const output of answer.outputs) {
    const end = position + output.parameters.binary_data_size;
    output.data = floats(body.subarray(position, end));
    position = end;
  }
  return answer;
}

function post(socketPath, path, parts, headers) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const options = { agent, socketPath, path, method: "POST", headers: { ...headers, "Content-Length": length } };
  return new Promise((resolve, reject) => {
    const request = http.request(options, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () =>
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) }),
      );
    });
    request.on("error", reject);
    for (const part of parts) request.write(part);
    request.end();
  });
}

// A copy, since the bytes begin wherever the JSON before them ended, and floats are read at multiples of 4.
const floats = (bytes) => Array.from(new Float32Array(Uint8Array.from(bytes).buffer));

const [socketPath, model, input, ...numbers] = process.argv.slice(2);
if (!numbers.length) {
  console.error("usage: node infer.mjs SOCKET MODEL INPUT NUMBER...");
  process.exit(2);
}
try {
  const answer = await infer(socketPath, model, input, numbers.map(Number));
  for (const { name, shape, data } of answer.outputs) {
    console.log(`${answer.model_name} ${answer.model_version}: ${name} [${shape}] = ${data.join(" ")}`);
  }
} catch (error) {
  console.error(`infer: ${error.message}`);
  process.exitCode = 1;
} finally {
  agent.destroy();
}
