//! x
#![allow(clippy::all, clippy::print_stdout, clippy::unwrap_used, missing_docs, unused)]
use netloom_kernel::*; use netloom_testkit::*; use std::time::*; use futures::executor::block_on; use std::collections::*;
use netloom_model::*;
struct R(u64);
impl R { fn n(&mut self) -> u64 { self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15); let mut z=self.0; z=(z^(z>>30)).wrapping_mul(0xbf58_476d_1ce4_e5b9); z=(z^(z>>27)).wrapping_mul(0x94d0_49bb_1331_11eb); z^(z>>31)}
 fn p<'a>(&mut self, a: &[&'a str]) -> &'a str { a[(self.n() % a.len() as u64) as usize] } fn b(&mut self, k: u64) -> bool { self.n()%k==0 } }
fn l(s:&str)->IfName{s.parse().unwrap()}
fn inside(r:&mut R)->Netns{ match r.n()%3 {0=>Netns::Host,1=>Netns::Named("n1".parse().unwrap()),_=>Netns::Named("n2".parse().unwrap())} }
const NETS:&[&str]=&["10.0.0.1/24","10.0.0.2/24","10.0.0.2/16","10.1.0.1/32","10.0.0.0/24","0.0.0.0/0","10.2.0.1/31","fd00::1/64","fd00::2/64","fd00::/64","fd01::1/128","::/0","127.0.0.9/8","fd02::3/127"];
const LINKS:&[&str]=&["br1","br2","v1","v2","v3","eth0","eth1","eth0","eth0","lo"];
fn op(r:&mut R)->Op{
 let t=|n:&str| LinkTag::new("netloom","endpoint",n);
 let m=|r:&mut R| if r.b(3){Some([60u32,1000,1400,1500,9000,70000][(r.n()%6) as usize])}else{None};
 match r.n()%32 {
 0=>Op::CreateNetns{name:r.p(&["n1","n2"]).parse().unwrap()},
 3 if r.b(3)=>Op::DeleteNetns{name:r.p(&["n1","n2"]).parse().unwrap()},
 4|5=>{let n=r.p(&["br1","br2"]); Op::CreateBridge{name:l(n),mac:None,mtu:m(r),tag:t(n)}},
 6..=9=>{let n=r.p(&["v1","v2","v3"]); Op::CreateVeth{host:l(n),peer:l(r.p(&["eth0","eth1","v3"])),netns:inside(r),master:if r.b(2){Some(l(r.p(&["br1","br2"])))}else{None},mac:None,mtu:m(r),tag:t(n)}},
 10=>Op::CutLink{name:l(r.p(LINKS))},
 11 if r.b(2)=>{let n=r.p(LINKS); Op::DeleteLink{name:l(n),tag:if r.b(2){Some(t(n))}else{None}}},
 12=>Op::MoveLink{from:inside(r),name:l(r.p(&LINKS[..9])),to:inside(r),rename:l(r.p(LINKS))},
 13..=16=>Op::SetLink{netns:inside(r),name:l(r.p(LINKS)),up:!r.b(4)},
 17=>Op::SetMtu{netns:inside(r),name:l(r.p(&LINKS[..9])),mtu:[60u32,1000,1400,1500,9000,70000][(r.n()%6) as usize]},
 18..=21=>Op::AddAddress{netns:inside(r),link:l(r.p(LINKS)),address:r.p(NETS).parse().unwrap()},
 22=>Op::DeleteAddress{netns:inside(r),link:l(r.p(LINKS)),address:r.p(NETS).parse().unwrap()},
 1|2|23..=25=>{let mut q=rt(r); if q.link==l("lo") {q.via=None} Op::AddRoute{netns:inside(r),route:q}},
 26|27=>{let mut q=rt(r); if q.destination.prefix_len()==0 {q.link=l("eth0");} Op::DeleteRoute{netns:inside(r),route:q}},
 28=>Op::AddNeighbour{netns:inside(r),link:l(r.p(&LINKS[2..9])),neighbour:nb(r)},
 29=>Op::DeleteNeighbour{netns:inside(r),link:l(r.p(LINKS)),neighbour:nb(r)},
 _=>Op::Sysctl{netns:inside(r),key:r.p(&["ipv6/conf/all/disable_ipv6","ipv6/conf/default/disable_ipv6","ipv6/conf/eth0/disable_ipv6","ipv4/conf/eth0/promote_secondaries","ipv4/conf/br1/rp_filter","ipv6/conf/eth1/accept_ra","ipv4/ip_forward","ipv4/none"]).into(),value:r.p(&["0","1","x"]).into()},
 }}
fn rt(r:&mut R)->Route{ Route{destination:r.p(&["10.0.0.0/24","10.0.0.0/16","10.5.0.0/16","10.5.0.1/16","0.0.0.0/0","fd00::/64","fd05::/64","fd05::1/64","::/0","10.2.0.0/31","fd01::1/128"]).parse().unwrap(),via:match r.n()%6{0|1=>None,_=>Some(r.p(&["10.0.0.1","10.0.0.9","fd00::9","fe80::1","10.0.0.255","fd00::1","10.2.0.0"]).parse().unwrap())},link:l(r.p(LINKS))} }
fn nb(r:&mut R)->Neighbour{ Neighbour::Address{address:r.p(&["10.0.0.5","fd00::5"]).parse().unwrap(),mac:MacAddr([2,0,0,0,0,5])} }
fn dump(k:&dyn Kernel, ns:Netns)->Result<BTreeSet<String>,i32>{
 let dl=Instant::now()+Duration::from_secs(20);
 let links=block_on(k.links(ns,dl)).map_err(|e|e.errno)?;
 let name=|i:u32| links.iter().find(|v|v.index==i).map(|v|v.name.to_string()).unwrap_or("?".into());
 let mut o=BTreeSet::new();
 for v in &links { o.insert(format!("link {} {:?} mtu {} up {} master {:?} alias {:?} group {}",v.name,v.kind,v.mtu,v.up,v.master.map(name),v.alias,v.group)); }
 for a in block_on(k.addresses(ns,dl)).map_err(|e|e.errno)? { if a.address.to_string().starts_with("fe80") {continue} o.insert(format!("addr {} {}",name(a.link),a.address)); }
 for a in block_on(k.routes(ns,dl)).map_err(|e|e.errno)? { let d=a.destination.to_string(); if d.starts_with("fe80")||d.starts_with("ff00") {continue} o.insert(format!("route {} via {:?} {:?}",d,a.via,a.link.map(name))); }
 for a in block_on(k.neighbours(ns,dl)).map_err(|e|e.errno)? { if a.permanent && !a.forwarding { o.insert(format!("neigh {} {:?} {:?}",name(a.link),a.address,a.mac)); } }
 Ok(o)
}
fn main(){
 let seed:u64=std::env::args().nth(1).unwrap().parse().unwrap();
 let real=LinuxKernel::start(LinuxConfig{run_dir:"/run/tkdiff".into()}).unwrap(); let sim=SimKernel::new();
 let dl=||Instant::now()+Duration::from_secs(30);
 block_on(real.execute(vec![Op::SetLink{netns:Netns::Host,name:l("lo"),up:true}],dl()))[0].as_ref().unwrap();
 let mut r=R(seed); let mut hist=vec![];
 let t=|n:&str| LinkTag::new("netloom","endpoint",n); let n=|s:&str| Netns::Named(s.parse().unwrap());
 let mut pre=vec![Op::CreateNetns{name:"n1".parse().unwrap()},Op::CreateNetns{name:"n2".parse().unwrap()},Op::CreateBridge{name:l("br1"),mac:None,mtu:None,tag:t("br1")},Op::SetLink{netns:Netns::Host,name:l("br1"),up:true},
  Op::CreateVeth{host:l("v1"),peer:l("eth0"),netns:n("n1"),master:Some(l("br1")),mac:None,mtu:None,tag:t("v1")},Op::CreateVeth{host:l("v2"),peer:l("eth0"),netns:n("n2"),master:Some(l("br1")),mac:None,mtu:None,tag:t("v2")},
  Op::SetLink{netns:n("n1"),name:l("eth0"),up:true},Op::SetLink{netns:n("n2"),name:l("eth0"),up:true},Op::AddAddress{netns:Netns::Host,link:l("br1"),address:"10.0.0.1/24".parse().unwrap()},Op::AddAddress{netns:n("n1"),link:l("eth0"),address:"10.0.0.2/24".parse().unwrap()},Op::AddAddress{netns:n("n1"),link:l("eth0"),address:"fd00::2/64".parse().unwrap()},Op::AddAddress{netns:n("n2"),link:l("eth0"),address:"10.0.0.3/24".parse().unwrap()}];
 pre.reverse();
 for i in 0..80 {
  let o=pre.pop().unwrap_or_else(||op(&mut r));
  let a=block_on(real.execute(vec![o.clone()],dl())).remove(0).map_err(|e|(e.errno,e.message));
  let b=block_on(sim.execute(vec![o.clone()],dl())).remove(0).map_err(|e|(e.errno,e.message));
  hist.push(format!("{} -> {:?}",o,a));
  let same=match(&a,&b){(Ok(()),Ok(()))=>true,(Err(x),Err(y))=>x.0==y.0,_=>false};
  if !same { println!("seed {seed} step {i}: {o}\n   {o:?}\n   real {a:?}\n   sim  {b:?}"); for h in hist.iter().rev().take(6).rev(){println!("      {h}");} std::process::exit(1) }
  for ns in [Netns::Host,Netns::Named("n1".parse().unwrap()),Netns::Named("n2".parse().unwrap())] {
   let y=dump(&sim,ns); let end=Instant::now()+Duration::from_secs(4);
   loop { let x=dump(&real,ns); if x==y {break}
    if Instant::now()>end { let (x,y)=(x.unwrap_or_default(),y.unwrap_or_default()); println!("seed {seed} step {i}: after {o} in {ns}: {a:?}"); for d in x.difference(&y){println!("   only real: {d}")} for d in y.difference(&x){println!("   only sim:  {d}")} for h in hist.iter().filter(|h|h.ends_with("Ok(())")).collect::<Vec<_>>().iter().rev().take(14).rev(){println!("      {h}");} std::process::exit(1) }
    std::thread::sleep(Duration::from_millis(5)); }
  }
 }
}
