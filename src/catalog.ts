import { readFileSync } from 'node:fs'
import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js'
import type { RegExpEngine } from 'ajv/dist/types/index.js'
import addFormats from 'ajv-formats'
import { boundKeywords } from './bounded-keywords.ts'
import type { Violation } from './errors.ts'
import { BudgetExceeded, createLinearEngine, type Budget } from './linear-pattern.ts'
import { attempts, backoff, stepSchema, toStep, type Service, type Step, type StepSource } from './steps.ts'

export interface JobType {
  readonly name: string
  readonly steps: readonly Step[]
  /** The JSON Schema of its input. */
  readonly input: object | boolean
  /** Every way in which an input does not match the type's schema; empty when it does. */
  readonly violations: (input: unknown) => Violation[]
  readonly retentionMs: number
  readonly deadlineMs: number
  readonly journalLimit: number
  /** How many of its jobs may wait for their first attempt. */
  readonly maxWaiting: number
  /** How many of them of one tenant; null for no bound of their own. */
  readonly maxWaitingPerTenant: number | null
  /** Whether tenants take turns in the queues of its route; null where it does not say. */
  readonly isFair: boolean | null
}

export interface Catalog {
  readonly types: ReadonlyMap<string, JobType>
  /** Every queue that some route passes through. */
  readonly queues: readonly string[]
  /** The services that are steps, by their queues. */
  readonly services: ReadonlyMap<string, Service>
}

/** A catalogue that cannot be used. The message is one line that names the place, such as `types.order.steps[1]`. */
export class CatalogError extends Error {}

interface TypeSource {
  readonly steps: readonly StepSource[]
  readonly input: object | boolean
  readonly attempts: number
  readonly backoff_ms: number
  readonly retention_s: number
  readonly deadline_ms: number
  readonly journal_limit: number
  readonly max_waiting: number
  readonly max_waiting_per_tenant?: number
  readonly fair?: boolean
}

const schema = {
  type: 'object',
  required: ['types'],
  additionalProperties: false,
  properties: {
    $schema: { type: 'string' },
    types: {
      type: 'object',
      minProperties: 1,
      propertyNames: { pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' },
      additionalProperties: {
        type: 'object',
        required: ['steps'],
        additionalProperties: false,
        properties: {
          steps: {
            type: 'array',
            minItems: 1,
            maxItems: 50,
            items: stepSchema,
          },
          input: { type: ['object', 'boolean'], default: true },
          attempts: { ...attempts, default: 3 },
          backoff_ms: { ...backoff, default: 500 },
          retention_s: { type: 'integer', minimum: 1, maximum: 31_536_000, default: 86_400 },
          deadline_ms: { type: 'integer', minimum: 1, maximum: 31_536_000_000, default: 600_000 },
          journal_limit: { type: 'integer', minimum: 10, maximum: 1_000_000, default: 10_000 },
          max_waiting: { type: 'integer', minimum: 1, maximum: 100_000_000, default: 100_000 },
          max_waiting_per_tenant: { type: 'integer', minimum: 1, maximum: 100_000_000 },
          fair: { type: 'boolean' },
        },
      },
    },
  },
}

/**
 * An ajv of JSON Schema 2020-12 that finds every violation, as all validation here does. It takes its schemas to be valid:
 * to compile the schema of schemas takes each ajv longer than all that is compiled here.
 */
export function createAjv(
  options: { useDefaults?: boolean; allErrors?: boolean; code?: { regExp: RegExpEngine } } = {},
): Ajv2020 {
  const ajv = new Ajv2020({
    allErrors: true,
    strictSchema: true,
    strictTypes: false,
    strictTuples: false,
    strictRequired: false,
    validateSchema: false,
    ...options,
  })
  addFormats.default(ajv)
  boundKeywords(ajv)
  return ajv
}

/** Reads and compiles the catalogue of job types. Throws a {@link CatalogError}. */
export function readCatalog(path: string): Catalog {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new CatalogError(`QUARTET_CONFIG: ${(error as Error).message}`)
  }
  try {
    return parseCatalog(JSON.parse(text))
  } catch (error) {
    if (!(error instanceof CatalogError) && !(error instanceof SyntaxError)) throw error
    // V8 shows the JSON around a syntax error, line breaks and all.
    throw new CatalogError(`${path}: ${error.message.replace(/\s+/g, ' ')}`)
  }
}

/** Judges the schemas that users write, for all types alike. */
const dialect = createAjv()

/** Compiles a catalogue from parsed JSON. Throws a {@link CatalogError}. */
export function parseCatalog(source: unknown): Catalog {
  const ajv = createAjv({ useDefaults: true })
  const validate = ajv.compile<{ types: Record<string, TypeSource> }>(schema)
  if (!validate(source)) throw new CatalogError(describeFirst(validate.errors ?? []))
  const types = new Map<string, JobType>()
  for (const [name, type] of Object.entries(source.types)) types.set(name, toJobType(name, type))
  const queues = [...types.values()].flatMap(({ steps }) => steps.map((step) => step.queue))
  return { types, queues: [...new Set(queues)], services: servicesOf(types) }
}

/**
 * The queues in which tenants take turns: those on the route of a type that says so, whichever others pass through them, and
 * of types that say nothing if that is the default.
 */
export function fairQueues({ types }: Pick<Catalog, 'types'>, isDefault: boolean): ReadonlySet<string> {
  const fair = [...types.values()].filter(({ isFair }) => isFair ?? isDefault)
  return new Set(fair.flatMap(({ steps }) => steps.map(({ queue }) => queue)))
}

/** What is behind a queue is the same in every route, as its jobs are: one service, or workers of its own. */
function servicesOf(types: Catalog['types']): Map<string, Service> {
  const known = new Map<string, { readonly place: string; readonly service: Service | null }>()
  for (const { name, steps } of types.values()) {
    for (const [index, { queue, service }] of steps.entries()) {
      const place = `types.${name}.steps[${index}]`
      const first = known.get(queue) ?? { place, service }
      known.set(queue, first)
      if (JSON.stringify(first.service) === JSON.stringify(service)) continue
      throw new CatalogError(
        `${place}: Expected the same http as in ${first.place}, or another queue, got the queue ${queue} twice`,
      )
    }
  }
  return new Map([...known].flatMap(([queue, { service }]) => (service ? [[queue, service] as const] : [])))
}

function toJobType(name: string, source: TypeSource): JobType {
  const steps = source.steps.map((step, index) => {
    try {
      return toStep(step, source)
    } catch (error) {
      throw new CatalogError(`types.${name}.steps[${index}].http.url: ${(error as Error).message}`)
    }
  })
  for (const [index, { queue }] of steps.entries()) {
    if (steps.findIndex((other) => other.queue === queue) < index) {
      // The correlation identifier is the job's id in each queue, so each can hold the job only once.
      throw new CatalogError(
        `types.${name}.steps[${index}]: Expected each queue once in a route, got ${queue} again`,
      )
    }
  }
  return {
    name,
    steps,
    input: source.input,
    violations: compileInput(name, source.input),
    retentionMs: source.retention_s * 1_000,
    deadlineMs: source.deadline_ms,
    journalLimit: source.journal_limit,
    maxWaiting: source.max_waiting,
    maxWaitingPerTenant: source.max_waiting_per_tenant ?? null,
    isFair: source.fair ?? null,
  }
}

/** What is larger is told its first violation only: to find all of them can take seconds. */
const MAX_EXPLAINED_CHARACTERS = 65_536
const MAX_VIOLATIONS = 100

function compileInput(name: string, input: object | boolean): JobType['violations'] {
  const budget: Budget = { spent: 0 }
  const code = { regExp: createLinearEngine(budget) }
  let validate: ValidateFunction
  let explain: ValidateFunction | undefined
  try {
    void dialect.validateSchema(input, true)
    // An ajv of its own: two types may use the same $id.
    validate = createAjv({ allErrors: false, code }).compile(input)
    // It would answer with a promise, which passes for a yes.
    if ('$async' in validate) throw new Error('Expected a schema without $async')
  } catch (error) {
    throw new CatalogError(`types.${name}.input: ${(error as Error).message}`)
  }
  return (value) => {
    let first: readonly ErrorObject[] | null = null
    budget.spent = 0
    try {
      if (validate(value)) return []
      first = validate.errors ?? []
      if (sizeOf(value) > MAX_EXPLAINED_CHARACTERS) return toViolations(first)
      budget.spent = 0
      explain ??= createAjv({ code }).compile(input)
      if (explain(value)) return toViolations(first)
      return toViolations(explain.errors ?? first)
    } catch (error) {
      const message = tooMuch(error)
      return first ? toViolations(first) : [{ path: '', message }]
    }
  }
}

/** What is wrong with an input that could not be judged. Rethrows what is not the input's fault. */
function tooMuch(error: unknown): string {
  if (error instanceof BudgetExceeded) return 'is too long for the patterns of its type'
  // A schema that refers to itself is as deep as what it judges: V8's stack ends first.
  if (error instanceof RangeError) return 'is nested too deeply'
  throw error
}

/** Characters of a value's JSON; what is nested too deeply to be written has no size. */
function sizeOf(value: unknown): number {
  try {
    return JSON.stringify(value)?.length ?? 0
  } catch {
    return Number.POSITIVE_INFINITY
  }
}

/** ajv's errors as the wire shows them, at most 100: a JSON Pointer and a message that names the culprit. */
export function toViolations(errors: readonly ErrorObject[]): Violation[] {
  return errors
    .filter(({ keyword }) => keyword !== 'if')
    .slice(0, MAX_VIOLATIONS)
    .map(({ instancePath, propertyName, params, message = 'is not valid' }) => {
      const name = propertyName ?? (params['propertyName'] as string | undefined)
      if (name !== undefined) return { path: `${instancePath}/${escapePointer(name)}`, message }
      const extra = (params['additionalProperty'] ?? params['unevaluatedProperty']) as string | undefined
      if (extra !== undefined)
        return { path: `${instancePath}/${escapePointer(extra)}`, message: 'is not known' }
      const missing = params['missingProperty'] as string | undefined
      if (missing !== undefined)
        return { path: `${instancePath}/${escapePointer(missing)}`, message: 'is required' }
      const allowed = (params['allowedValues'] ?? params['allowedValue']) as unknown
      if (allowed === undefined) return { path: instancePath, message }
      return { path: instancePath, message: `${message}: ${JSON.stringify(allowed)}` }
    })
}

/** RFC 6901 §3. */
function escapePointer(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}

function describeFirst(errors: readonly ErrorObject[]): string {
  const [first] = toViolations(errors)
  const place = (first?.path ?? '')
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    .reduce((path, part) => (/^\d+$/.test(part) ? `${path}[${part}]` : path ? `${path}.${part}` : part), '')
  return `${place || 'the file'}: ${first?.message ?? 'is not valid'}`
}
