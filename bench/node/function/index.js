// Function `broadcast` as one would write it for Node 20 on Lambda: the answers of a delivery job, posted with the official
// SDK, three hundred at once, keep-alive on; what fails comes again.
import { Agent } from "node:http";
import { ApiGatewayManagementApiClient, PostToConnectionCommand } from "@aws-sdk/client-apigatewaymanagementapi";
import { NodeHttpHandler } from "@smithy/node-http-handler";

const client = new ApiGatewayManagementApiClient({
  endpoint: process.env.MANAGEMENT_ENDPOINT,
  requestHandler: new NodeHttpHandler({ httpAgent: new Agent({ keepAlive: true, maxSockets: 300 }) }),
});

const deliver = async ({ answers }) => {
  const posted = await Promise.allSettled(
    answers.map(({ connectionId, frame }) =>
      client.send(new PostToConnectionCommand({ ConnectionId: connectionId, Data: Buffer.from(JSON.stringify(frame)) })),
    ),
  );
  const failed = posted.filter(({ reason }) => reason && reason.$metadata?.httpStatusCode !== 410).length;
  console.log(JSON.stringify({ level: "INFO", message: "delivered", sent: answers.length - failed, failed }));
  if (failed) throw new Error(`failed to deliver ${failed} of the answers`);
};

export const handler = async ({ Records }) => {
  const settled = await Promise.allSettled(Records.map(({ body }) => deliver(JSON.parse(body))));
  const batchItemFailures = Records.filter((_, index) => settled[index].reason).map(({ messageId }) => ({ itemIdentifier: messageId }));
  return { batchItemFailures };
};
