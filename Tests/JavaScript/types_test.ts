// What the types of starling.js promise: compiled, never run.

import { Member, StarlingClient, StarlingError, State, Topic, Update } from "./starling.js";

type ChatEvent = { said: string } | { typing: boolean };

async function use(client: StarlingClient): Promise<void> {
  const room: Topic<ChatEvent> = client.topic<ChatEvent>("room:swift", { position: "e.1" });
  for await (const event of room) {
    if ("said" in event) event.said.toUpperCase();
    // @ts-expect-error: no such event
    event.shouted;
  }
  for await (const update of room.updates()) {
    switch (update.type) {
      case "event": { const event: ChatEvent = update.event; void event; break; }
      case "subscribed": { const recovered: boolean = update.recovered; void recovered; break; }
      case "gap": { const bounds: [string | undefined, string] = [update.after, update.position]; void bounds; break; }
      case "joined": case "left": { const member: Member = update.member; void member.info; break; }
      case "ended": { const error: StarlingError | undefined = update.error; void error?.code; break; }
      default: { const never: never = update; void never; }
    }
  }
  client.topic<ChatEvent>("room:swift", { onupdate: (update: Update<ChatEvent>) => void update }).close();
  const position: string | undefined = await room.publish({ said: "Hello" });
  // @ts-expect-error: no such event
  await room.publish({ shouted: "Hello" });
  const name = (await client.request<{ name: string }>("rename", { to: "Ada" }, { timeout: 1000 })).name;
  const members: Member[] = await client.members("room:swift");
  const state: State = client.state;
  if (state.status === "waiting") new Date(state.until);
  if (state.status === "closed") state.code.toFixed();
  // @ts-expect-error: not for others to set
  client.state = state;
  client.addEventListener("state", () => client.retry());
  client.close();
  void [position, name, members];
}

void use(new StarlingClient(new URL("wss://example.com/chat"), { queuePolicy: "drop-oldest", WebSocket, comesBack: (code) => code === 4001 }));
// @ts-expect-error: no such policy
void new StarlingClient("/chat", { queuePolicy: "drop" });
