import { json, ref, type Content, type Operation } from './operation.ts'

const text = (example: string): Content => ({ schema: { type: 'string' }, examples: { shown: example } })

export const gatewayOperations: Readonly<Record<string, Operation>> = {
  'GET /livez': {
    id: 'getLiveness',
    tag: 'gateway',
    summary: 'Whether the process runs',
    answers: { 200: { description: 'It does.', content: json(ref('Health'), { alive: { status: 'ok' } }) } },
  },
  'GET /readyz': {
    id: 'getReadiness',
    tag: 'gateway',
    summary: 'Whether the gateway can keep a promise',
    answers: {
      200: { description: 'It can.', content: json(ref('Health'), { ready: { status: 'ready' } }) },
    },
    problems: ['store_unavailable', 'closing'],
  },
  'GET /metrics': {
    id: 'getMetrics',
    tag: 'gateway',
    summary: 'What this node counts, in Prometheus’s text format',
    answers: {
      200: {
        description: 'Of all tenants together.',
        content: { 'text/plain': text('# TYPE quartet_nodes gauge\nquartet_nodes 2\n') },
      },
    },
  },
  'GET /openapi.json': {
    id: 'getOpenApi',
    tag: 'gateway',
    summary: 'This document',
    description:
      'Whoever sends credentials gets the job types that they may submit, with the schemas of their inputs; whoever sends ' +
      'none, the document without them, unless the gateway lets everybody in.',
    answers: {
      200: {
        description: 'OpenAPI 3.1.',
        headers: ['Cache-Control', 'Vary'],
        content: json({ type: 'object', required: ['openapi', 'info', 'paths'] }),
      },
    },
    problems: [
      'unauthorized',
      'forbidden',
      'rate_limited',
      'authentication_unavailable',
      'store_unavailable',
    ],
  },
  'GET /asyncapi.json': {
    id: 'getAsyncApi',
    tag: 'gateway',
    summary: 'The messages of the WebSocket',
    answers: {
      200: {
        description: 'AsyncAPI 3.0.',
        headers: ['Cache-Control'],
        content: json({ type: 'object', required: ['asyncapi', 'info', 'channels'] }),
      },
    },
  },
  'GET /docs': {
    id: 'getReference',
    tag: 'gateway',
    summary: 'This document as a page',
    answers: {
      200: {
        description: 'For browsers.',
        headers: ['Cache-Control'],
        content: { 'text/html': text('<!doctype html>') },
      },
    },
  },
  'GET /docs/:file': {
    id: 'getReferenceFile',
    tag: 'gateway',
    summary: 'What that page is made of',
    answers: {
      200: {
        description: 'A script, a style sheet or a picture.',
        headers: ['Cache-Control'],
        content: { 'text/javascript': text(''), 'text/css': text(''), 'image/png': { schema: {} } },
      },
    },
    problems: ['no_such_route'],
  },
}
