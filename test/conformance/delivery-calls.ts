import { setTimeout as delay } from 'node:timers/promises'
import type { ServerResponse } from 'node:http'
import type { TestGateway } from '../gateway.ts'
import { createInbox, get, type Delivered } from './clients.ts'

/** A try of a webhook as clients see it. */
export interface TryObject {
  at: string
  duration_ms: number
  outcome: string
  status_code: number | null
  reason: string | null
  error: string | null
  redelivery: boolean
}

export interface DeliveryObject {
  seq: number
  webhook_id: string
  type: string
  status: 'pending' | 'delivered' | 'dead' | 'void'
  next_try_at: string | null
  tries: TryObject[]
}

/** The answer to GET /jobs/{id}/deliveries. */
export interface DeliveriesObject {
  origin: string | null
  gone: boolean
  circuit: 'open' | 'closed'
  circuit_open_until: string | null
  deliveries: DeliveryObject[]
}

export interface DeadLetterObject {
  job_id: string
  seq: number
  webhook_id: string
  status: string
  origin: string
  died_at: string
}

/** The answer to GET /deliveries?status=dead. */
export interface DeadLettersObject {
  deliveries: DeadLetterObject[]
  next_page_token: string | null
}

export async function deliveriesOf(gateway: TestGateway, id: string): Promise<DeliveriesObject> {
  const response = await get(gateway, `/jobs/${id}/deliveries`)
  if (response.status !== 200) throw new Error(`Expected 200, got ${response.status}`)
  return (await response.json()) as DeliveriesObject
}

/** Asks for the delivery of an event until it is as wanted: nobody is told when a try is recorded. */
export async function deliveryWhen(
  gateway: TestGateway,
  id: string,
  seq: number,
  isWanted: (delivery: DeliveryObject) => boolean,
  everyMs = 20,
): Promise<DeliveryObject> {
  for (const until = Date.now() + 30_000; ;) {
    const found = (await deliveriesOf(gateway, id)).deliveries.find((delivery) => delivery.seq === seq)
    if (found && isWanted(found)) return found
    if (Date.now() > until) throw new Error(`Expected another delivery, got ${JSON.stringify(found)}`)
    await delay(everyMs)
  }
}

/** Until a delivery has ended: it is neither waiting nor under way. */
export const endOfDelivery = (gateway: TestGateway, id: string, seq: number) =>
  deliveryWhen(gateway, id, seq, ({ status }) => status !== 'pending')

/** Until a delivery has had so many tries and waits for another. */
export const waitOfDelivery = (gateway: TestGateway, id: string, seq: number, tries = 1) =>
  deliveryWhen(gateway, id, seq, (found) => found.next_try_at !== null && found.tries.length === tries)

/** A page of dead letters. */
export async function deadLetters(
  gateway: TestGateway,
  query: Record<string, string> = {},
): Promise<DeadLettersObject> {
  const search = new URLSearchParams({ status: 'dead', ...query })
  const response = await get(gateway, `/deliveries?${search.toString()}`)
  if (response.status !== 200) throw new Error(`Expected 200, got ${response.status}`)
  return (await response.json()) as DeadLettersObject
}

/** Whether an event is among the dead letters. */
export async function isListed(gateway: TestGateway, id: string, seq: number): Promise<boolean> {
  const { deliveries } = await deadLetters(gateway, { limit: '200' })
  return deliveries.some(({ webhook_id }) => webhook_id === `${id}.${seq}`)
}

export function redeliver(gateway: TestGateway, id: string, seq: number | string) {
  return fetch(`${gateway.url}/jobs/${id}/deliveries/${seq}/redeliver`, { method: 'POST' })
}

export function redeliverAll(gateway: TestGateway, body: unknown) {
  return fetch(`${gateway.url}/deliveries/redeliver`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
}

/** Has a receiver answer with one status until it is told another. For `startReceiver`. */
export function answersWith(status: number, headers: Record<string, string> = {}, body = '') {
  const answer = (response: ServerResponse) => void response.writeHead(answer.status, headers).end(body)
  answer.status = status
  return answer
}

/** Has a receiver hold every answer until the test gives it. For `startReceiver`. */
export function holdsAnswers() {
  const held = createInbox<(status: number) => void>()
  const answer = (response: ServerResponse, _delivered: Delivered) =>
    held.push((status) => void response.writeHead(status).end())
  answer.next = () => held.next()
  return answer
}
