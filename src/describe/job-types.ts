import type { JobType } from '../catalog.ts'
import {
  batchRequestSchema,
  callbackRequestSchema,
  jobRequestSchema,
  redeliverRequestSchema,
  tokenRequestSchema,
} from '../messages.ts'
import { requests } from './examples.ts'
import { oneOfBy } from './schemas.ts'
import { ref, type Schema } from './operation.ts'

const idempotencyKey = { type: 'string', description: 'As the header of POST /jobs.' }

/**
 * The schemas of what the gateway is sent, the very ones that it validates by.
 *
 * @param types the job types that are shown; null for none, so that a request is for any
 */
export function requestSchemas(types: readonly JobType[] | null): Readonly<Record<string, Schema>> {
  const byType = types && types.length > 0 && oneOfBy('type', nameBy(types, 'job'))
  const { properties } = jobRequestSchema
  return {
    JobRequest: { ...jobRequestSchema, ...byType },
    BatchItem: {
      ...jobRequestSchema,
      properties: { ...properties, idempotency_key: idempotencyKey },
      ...byType,
    },
    BatchRequest: {
      ...batchRequestSchema,
      properties: { jobs: { ...batchRequestSchema.properties.jobs, items: ref('BatchItem') } },
    },
    CallbackRequest: callbackRequestSchema,
    TokenRequest: tokenRequestSchema,
    RedeliverRequest: redeliverRequestSchema,
    ...Object.fromEntries((types ?? []).flatMap((type) => schemasOf(type))),
  }
}

/** Requests for jobs that can be made, by name: for each type the examples that its schema has. */
export function requestExamples(types: readonly JobType[] | null): Readonly<Record<string, object>> {
  if (types === null) return requests
  return Object.fromEntries(
    types.flatMap(({ name, input, violations }) => {
      const inputs: readonly unknown[] =
        typeof input === 'object' && 'examples' in input ? [input.examples].flat() : []
      if (inputs.length === 0 && violations(null).length === 0) return [[name, { type: name }]]
      return inputs.map((input, index) => [
        index === 0 ? name : `${name} ${index + 1}`,
        { type: name, input },
      ])
    }),
  )
}

function schemasOf({ name, input, violations }: JobType): [string, Schema][] {
  const properties = { type: { const: name }, input: ref(`input.${name}`) }
  const isNeeded = violations(null).length > 0
  return [
    [`job.${name}`, { type: 'object', required: ['type', ...(isNeeded ? ['input'] : [])], properties }],
    [`input.${name}`, contained(name, input)],
  ]
}

/** Within the document a schema is found by its place: its references into itself lead there, and its `$id` nowhere. */
function contained(name: string, input: JobType['input']): Schema {
  if (typeof input === 'boolean') return input
  const { $id = '', ...schema } = input as { readonly $id?: string }
  return rewriteReferences(schema, (reference) => {
    const [base, fragment = ''] = reference.split('#')
    return base === '' || base === $id ? `${ref(`input.${name}`).$ref}${fragment}` : reference
  })
}

/** What has values in it, not schemas. */
const values = ['const', 'default', 'enum', 'examples']
/** What has schemas by names of somebody's own, which may be any words. */
const named = ['$defs', 'definitions', 'dependencies', 'dependentSchemas', 'patternProperties', 'properties']

function rewriteReferences(schema: object, rewrite: (reference: string) => string, areNames = false): object {
  if (Array.isArray(schema)) return schema.map((each: unknown) => rewritten(each, rewrite))
  const members = Object.entries(schema).map(([name, member]: [string, unknown]) => {
    if (areNames) return [name, rewritten(member, rewrite)]
    if (values.includes(name)) return [name, member]
    if (name === '$ref' && typeof member === 'string') return [name, rewrite(member)]
    return [name, rewritten(member, rewrite, named.includes(name))]
  })
  return Object.fromEntries(members) as object
}

function rewritten(member: unknown, rewrite: (reference: string) => string, areNames = false): unknown {
  return typeof member === 'object' && member !== null ? rewriteReferences(member, rewrite, areNames) : member
}

function nameBy(types: readonly JobType[], prefix: string): Readonly<Record<string, string>> {
  return Object.fromEntries(types.map(({ name }) => [name, `${prefix}.${name}`]))
}
