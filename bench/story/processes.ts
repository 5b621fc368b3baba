import { resolve } from 'node:path'
import { spawnProcess, type TestProcess } from '../../test/helper.ts'
import type { Scope } from '../scope.ts'
import { getJson } from './post.ts'
import type { ServiceFigures, ServiceOptions } from './service.ts'

export interface Service {
  readonly process: TestProcess
  readonly port: number
  figures(): Promise<ServiceFigures>
}

export async function startService(t: Scope, options: ServiceOptions): Promise<Service> {
  const args = ['node', '--import', 'tsx', resolve('bench/story/service.ts'), JSON.stringify(options)]
  const process = spawnProcess(t, args)
  const [, url = ''] = await process.waitForLine(/listens on (http:\S+)/)
  return { process, port: Number(new URL(url).port), figures: () => getJson<ServiceFigures>(url) }
}

/** @returns for each port a url that leads there over the network */
export async function startNetwork(t: Scope, ms: number, ports: readonly number[]): Promise<string[]> {
  const args = ['node', '--import', 'tsx', resolve('bench/story/network.ts'), ms, ...ports].map(String)
  const [, list = ''] = await spawnProcess(t, args).waitForLine(/passes on ([\d ]+)/)
  return list.split(' ').map((port) => `http://127.0.0.1:${port}`)
}

/** For how many orders each service has done its work. */
export async function doneBy(services: readonly Service[]): Promise<number[]> {
  const figures = await Promise.all(services.map((service) => service.figures()))
  return figures.map(({ done }) => done)
}
